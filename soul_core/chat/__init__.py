"""Chat templates: rendered, the answer located in the rendering, and the answer cut out of what a model writes."""
