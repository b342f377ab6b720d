"""Training: data, Lightning modules, losses and recipes."""
