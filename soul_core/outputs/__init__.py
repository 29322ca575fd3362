"""What a run leaves behind: weights in their dtype, config and tokenizer that others read, the report, the manifest."""
