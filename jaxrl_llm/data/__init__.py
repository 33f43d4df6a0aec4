"""From files to batches: tokenizers, readers, token stores, packing and the DataSource."""
