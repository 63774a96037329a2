"""``python -m sparsebench`` is the command line."""

from sparsebench.app.main import main

if __name__ == "__main__":
    main()
