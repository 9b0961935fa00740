//! A disk that has another size than its replica.
//!
//! One that has grown is followed by itself: its replica is made larger as soon as both clusters have committed that
//! ([`reshape`](crate::drive)), and until then there is nothing for anybody to do. One that shrank is a mistake more often
//! than not, and what is beyond its new end would be lost: an operator decides.

use landfall_proto::id::DiskTarget;
use landfall_proto::{Class, Refusal};

/// The code of a disk that has grown, for as long as its replica is made larger.
pub const DISK_GROWING: &str = "disk_growing";

/// The code of a disk that shrank.
pub const DISK_RESIZED: &str = "disk_resized";

/// Whether the disk `target` has as many bytes as its replica.
pub fn check(target: &DiskTarget, replica: u64, disk: u64) -> Result<(), Refusal> {
    let refusal = match disk.cmp(&replica) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Greater => {
            let message = format!(
                "disk '{target}' has grown from {replica} to {disk} bytes: its replica is made larger by itself, and \
                 then goes on"
            );
            Refusal::new(Class::Failed, DISK_GROWING, message)
        }
        std::cmp::Ordering::Less => {
            let message = format!("disk '{target}' shrank: it has {disk} bytes, and its replica has {replica}");
            Refusal::new(Class::Refused, DISK_RESIZED, message)
                .remedy("disable replication and enable it again: contents are compared, only differences are sent")
        }
    };
    Err(refusal.field("disk"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_grew_needs_nobody_and_one_that_shrank_does() {
        let check = |disk| check(&"vda".parse().unwrap(), 4096, disk);
        assert_eq!(check(4096), Ok(()));
        let (grown, shrunk) = (check(4097).unwrap_err(), check(4095).unwrap_err());
        assert_eq!((grown.code.as_str(), grown.class, &grown.remedy), (DISK_GROWING, Class::Failed, &None));
        assert!(grown.message.contains("from 4096 to 4097 bytes") && grown.message.contains("by itself"), "{grown}");
        assert_eq!((shrunk.code.as_str(), shrunk.class), (DISK_RESIZED, Class::Refused));
        assert!(shrunk.message.contains("4095") && shrunk.message.contains("4096"), "{shrunk}");
        assert!(shrunk.remedy.unwrap().contains("disable replication"));
    }
}
