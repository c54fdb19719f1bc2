"""python -m endless_py run: programs that know nothing of this package, made replaceable."""
