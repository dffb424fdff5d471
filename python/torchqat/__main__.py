"""`python -m torchqat`."""

from torchqat.cli import main

raise SystemExit(main())
