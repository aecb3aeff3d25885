"""Images become shards: whole or not there, by one process or several, resumed after a kill."""
