"""Arrays with affines: conform, grids, brain mask, registration, resampling, normalisation."""
