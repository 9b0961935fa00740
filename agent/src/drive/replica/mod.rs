//! A replica's points.
