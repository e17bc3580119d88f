"""Networks: branches and fusion, their composition, and the plan from which a network is rebuilt."""
