raise RuntimeError("torn apart\nover two lines")
