"""Sizes that Python and the C++ kernel have to agree on; the compiler is given them as macros, see ``DEFINITIONS``."""

RANK_SPAN = 16
"""Distances that share an entry of ``PackedTable.ranks``."""

TABLE_MARGIN = 128
"""Columns of zeros on either side of the packed table, for vectors of keys that reach past it."""

MOST_LANES = 16
"""The most numbers in a vector of the kernel; the projection's columns are padded to a multiple of it."""

ELEMENT_TYPES = ("float32", "bfloat16", "float16", "float64")
"""The kernel knows an element type by its place here."""

DEFINITIONS = (
    f"-DWAVE_RANK_SPAN={RANK_SPAN}",
    f"-DWAVE_TABLE_MARGIN={TABLE_MARGIN}",
    f"-DWAVE_MOST_LANES={MOST_LANES}",
    f"-DWAVE_ELEMENT_TYPES={','.join(f'k_{name}' for name in ELEMENT_TYPES)}",
)
"""Compiler options that define them."""
