"""Networks: the branches and the fusion, how they are composed, and the plan from which they are composed again."""
