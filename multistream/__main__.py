"""python -m multistream"""

from multistream.cli import main

if __name__ == "__main__":
    main()
