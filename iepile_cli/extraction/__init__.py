"""Text in, grounded items out: reading documents, passages, grounding, merging, writing results."""
