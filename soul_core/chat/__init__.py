"""Chat templates: renders them, locates the answer in the rendering, and splits what a model writes."""
