"""Where intent lives. `embedded` is one SQLite file beside a lock; a change is durable before it is acknowledged."""
