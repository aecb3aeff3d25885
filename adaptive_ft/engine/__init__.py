"""Everything DeepSpeed: ranks, the filled JSON, optimizer groups, the engine, checkpoints that survive a kill."""
