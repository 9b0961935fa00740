//! The bounds of the local API. Past each the caller gets an error, and the agent goes on.

use std::time::Duration;

/// Connections served at once: a VM service holds two, each command one, so this is a script gone wild.
pub(super) const CONNECTIONS_MAX: usize = 64;

/// Connections beyond [`CONNECTIONS_MAX`] that are still told so; past these they are closed without a word.
pub(super) const TURNED_AWAY_MAX: usize = 16;

/// Requests under way at once, those whose caller has hung up included.
pub(super) const REQUESTS_MAX: usize = 64;

/// Event streams at once: half of the connections, so that commands always find one.
pub(super) const FEEDS_MAX: usize = 32;

/// Bytes of a request's body.
pub(super) const BODY_MAX: usize = 64 * 1024;

/// Bytes of a VM service's report: 2,000 VMs at 4 KiB each, twice what one Hyper-V host may run.
pub(super) const REPORT_MAX: usize = 8 * 1024 * 1024;

/// Bytes of a request's head: a path, a query and a few headers.
pub(super) const HEAD_MAX: usize = 16 * 1024;

/// For how long a connection may be idle, or take over the head of a request.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// For how long a request's body may take: it comes from this machine.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How often an idle event stream says that it lives: a reader that hears nothing for three of these may give up.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// For how long requests may go on after the server was told to stop.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// The pause after the kernel refused to accept (out of file descriptors, for one), so that the loop does not spin.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that wait in the kernel to be accepted.
pub(super) const BACKLOG: i32 = 64;
