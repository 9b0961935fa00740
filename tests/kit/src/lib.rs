//! The harness of Landfall's tests: real processes, disks, faults.
