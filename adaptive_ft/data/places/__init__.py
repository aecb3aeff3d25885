"""Where shards lie: in a folder of this machine, or behind an address and copied before they are read."""
