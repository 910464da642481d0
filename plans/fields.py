"""Lists of plan fields, by what must be equal where. Consider each list when you add a field to `Plan`.

A list may also name a value that the plan derives from its fields, such as `mask_steps`.
"""

READ_BY_PREPROCESSING = {"channels", "labels", "spacing", "crop"}  # a stored case is valid while they are equal

ONLY_TRAINING = {"batch", "device", "training", "memory", "low_resolution", "reasons", "median_shape"}
"""Folds of one model may differ in them: they change neither inputs nor outputs."""

SHARED_IF_AVERAGED = (
    "dataset",
    "resolution",
    "channels",
    "labels",
    "regions",
    "known_together",
    "spacing",
    "crop",
    "patch",
    "overview",
    "text",
    "mirror_axes",
    "mask_steps",
)
"""Models that are averaged share them."""

SHARED_BY_RESOLUTIONS = ("preset", "labels", "regions", "crop")
"""A model and the low-resolution model beside it share them."""
