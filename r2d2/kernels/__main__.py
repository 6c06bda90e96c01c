"""`python -m r2d2.kernels`: build the kernels."""

from r2d2.kernels import main

main()
