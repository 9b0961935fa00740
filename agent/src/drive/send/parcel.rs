//! Extents as frames: packed and encoded where they are read, so that a session only has to write them.

use bytes::Bytes;
use landfall_proto::alpn::Alpn;
use landfall_proto::message::data::{DataRequest, Extent};
use landfall_proto::{Class, Refusal, frame};
use landfall_store::settings::Compression;

use crate::drive::image::extent;
use crate::drive::pack::{Carried, Counts, Packer};

/// What an extent is sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To fill a replica that has no point.
    Fill,
    /// As a part of a change set.
    ChangeSet,
}

/// One frame of content.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// The frame.
    pub frame: Bytes,
    /// Bytes of raw content in it; zeroes count for none.
    pub content: u64,
}

/// Makes parcels.
pub struct Wrapper {
    packer: Packer,
    purpose: Purpose,
}

impl Wrapper {
    /// One for a pass over a disk or spool.
    pub fn new(purpose: Purpose, compression: Compression) -> Self {
        Self { packer: Packer::new(compression), purpose }
    }

    /// How many extents were packed so far.
    pub fn counts(&self) -> Counts {
        self.packer.counts()
    }

    /// Makes `extent` a frame. Takes a while.
    pub fn wrap(&mut self, extent: Extent) -> Result<Parcel, Refusal> {
        let content = extent::data_length(&extent);
        let request = match (self.purpose, self.packer.pack(extent)) {
            (Purpose::Fill, Carried::Plain(extent)) => DataRequest::Fill(extent),
            (Purpose::Fill, Carried::Packed(packed)) => DataRequest::FillPacked(packed),
            (Purpose::ChangeSet, Carried::Plain(extent)) => DataRequest::Extent(extent),
            (Purpose::ChangeSet, Carried::Packed(packed)) => DataRequest::ExtentPacked(packed),
        };
        let frame = frame::encode(&request, Alpn::Data.frame_max())
            .map_err(|error| Refusal::new(Class::Failed, "bad_extent", format!("an extent cannot be sent: {error}")))?;
        Ok(Parcel { frame: frame.into(), content })
    }
}
