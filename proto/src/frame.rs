//! Frames: a length of four bytes, most significant first, then an encoded value. Over any byte stream.
//!
//! The length is checked before anything is allocated. Nothing here waits by a clock of its own except [`exchange`].

use std::io;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::codec::{self, CodecError};
use crate::planted::{self, Bug};

/// Bytes of the length.
const PREFIX: usize = 4;

/// Why a frame could not be read or written.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The stream ended before the frame began.
    #[error("the stream ended before a frame")]
    Ended,
    /// The stream ended within the frame.
    #[error("the stream ended within a frame")]
    Cut,
    /// The frame is longer than this stream allows; its content was not read.
    #[error("a frame of {length} bytes is longer than the {max} allowed here")]
    TooLong {
        /// The length it claims, or has.
        length: usize,
        /// The bound.
        max: usize,
    },
    /// The content is not a message.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The stream failed.
    #[error("the stream failed: {0}")]
    Io(#[from] io::Error),
    /// It took longer than the caller allows.
    #[error("no answer within {:.1} s", .0.as_secs_f32())]
    Late(Duration),
}

/// Reads one frame's content into `buffer`, replacing what was there.
pub async fn read<R: AsyncRead + Unpin>(stream: &mut R, buffer: &mut Vec<u8>, max: usize) -> Result<(), FrameError> {
    let mut prefix = [0; PREFIX];
    let mut have = 0;
    while have < PREFIX {
        match stream.read(&mut prefix[have..]).await? {
            0 if have == 0 => return Err(FrameError::Ended),
            0 => return Err(FrameError::Cut),
            more => have += more,
        }
    }
    let length = u32::from_be_bytes(prefix) as usize;
    if length > max && !planted::is(Bug::FrameLengthBelieved) {
        return Err(FrameError::TooLong { length, max });
    }
    buffer.clear();
    buffer.resize(length, 0);
    match stream.read_exact(buffer).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(FrameError::Cut),
        Err(error) => Err(error.into()),
    }
}

/// Reads one message.
pub async fn receive<T: DeserializeOwned, R: AsyncRead + Unpin>(stream: &mut R, max: usize) -> Result<T, FrameError> {
    let mut buffer = Vec::new();
    read(stream, &mut buffer, max).await?;
    Ok(codec::decode(&buffer)?)
}

/// Takes in the end of a stream whose only message has been read, where it has come along with it, as it mostly does: a
/// stream that is dropped before its end is told to stop, in a packet that nobody needs.
pub fn take_end(stream: &mut quinn::RecvStream) {
    drop(stream.read_chunk(1, true).now_or_never());
}

/// Reads one message, or `None` where the stream ended in peace before it.
pub async fn receive_or_end<T: DeserializeOwned, R: AsyncRead + Unpin>(
    stream: &mut R,
    max: usize,
) -> Result<Option<T>, FrameError> {
    Ok(receive_sized(stream, max).await?.map(|(message, _)| message))
}

/// As [`receive_or_end`], with the bytes that the message took on the wire.
pub async fn receive_sized<T: DeserializeOwned, R: AsyncRead + Unpin>(
    stream: &mut R,
    max: usize,
) -> Result<Option<(T, u64)>, FrameError> {
    let mut buffer = Vec::new();
    match read(stream, &mut buffer, max).await {
        Ok(()) => Ok(Some((codec::decode(&buffer)?, (PREFIX + buffer.len()) as u64))),
        Err(FrameError::Ended) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Encodes `message` as a whole frame. One that is longer than `max` is the sender's own fault and is not sent.
pub fn encode<T: Serialize>(message: &T, max: usize) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; PREFIX];
    codec::encode_into(message, &mut bytes)?;
    let length = bytes.len() - PREFIX;
    match u32::try_from(length) {
        Ok(prefix) if length <= max => {
            bytes[..PREFIX].copy_from_slice(&prefix.to_be_bytes());
            Ok(bytes)
        }
        _ => Err(FrameError::TooLong { length, max }),
    }
}

/// Writes one message. It may wait in the stream's buffers: the caller flushes or finishes the stream.
pub async fn send<T: Serialize, W: AsyncWrite + Unpin>(
    stream: &mut W,
    message: &T,
    max: usize,
) -> Result<(), FrameError> {
    let frame = encode(message, max)?;
    Ok(stream.write_all(&frame).await?)
}

/// One request and its answer on a fresh stream, within `deadline`; the sending half is finished after the request.
pub async fn exchange<Q, A, W, R>(
    sending: &mut W,
    receiving: &mut R,
    request: &Q,
    max: usize,
    deadline: Duration,
) -> Result<A, FrameError>
where
    Q: Serialize,
    A: DeserializeOwned,
    W: AsyncWrite + Unpin,
    R: AsyncRead + Unpin,
{
    let frame = encode(request, max)?;
    tokio::time::timeout(deadline, async {
        sending.write_all(&frame).await?;
        sending.shutdown().await?;
        receive(receiving, max).await
    })
    .await
    .unwrap_or(Err(FrameError::Late(deadline)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_that_claims_too_much_is_refused_before_its_content() {
        let mut input: &[u8] = &[0xff, 0xff, 0xff, 0xff, 1];
        let error = receive::<u32, _>(&mut input, 1024).await.unwrap_err();
        assert!(matches!(error, FrameError::TooLong { length: 0xffff_ffff, max: 1024 }), "{error}");
    }

    #[tokio::test]
    async fn an_end_between_frames_is_peace_and_within_one_is_not() {
        let frame = encode(&"hello", 1024).unwrap();
        let mut input = frame.as_slice();
        assert_eq!(receive_or_end::<String, _>(&mut input, 1024).await.unwrap().as_deref(), Some("hello"));
        assert_eq!(receive_or_end::<String, _>(&mut input, 1024).await.unwrap(), None);
        let sized = receive_sized::<String, _>(&mut frame.as_slice(), 1024).await.unwrap();
        assert_eq!(sized, Some(("hello".to_owned(), frame.len() as u64)));
        for cut in 1..frame.len() {
            let mut input = &frame[..cut];
            assert!(matches!(receive_or_end::<String, _>(&mut input, 1024).await, Err(FrameError::Cut)), "{cut}");
        }
    }

    #[tokio::test]
    async fn an_exchange_ends_at_its_deadline() {
        let (mut near, _far) = tokio::io::duplex(64);
        let (mut receiving, mut sending) = tokio::io::split(&mut near);
        let answer: Result<u32, _> =
            exchange(&mut sending, &mut receiving, &1_u32, 64, Duration::from_millis(20)).await;
        assert!(matches!(answer, Err(FrameError::Late(_))));
    }
}
