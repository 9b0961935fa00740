//! The committed state of a Landfall cluster: sled made durable, the consensus log, settings, the change feed.
