"""The paper's tables and figures on a data set of the user's: what is trained, and how it is shown."""
