"""What a folder of shards holds, byte for byte: manifest, JSON member, index, and the check of one shard."""
