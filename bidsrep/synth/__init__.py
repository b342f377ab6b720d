"""The generator: deformation, contrast, pathology, corruption. Pure torch."""
