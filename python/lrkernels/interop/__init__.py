"""lrkernels inside models that other libraries built. None of these libraries is imported before it is needed."""
