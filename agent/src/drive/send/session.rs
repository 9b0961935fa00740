//! One sending session over one VM: the sender's end of `landfall-data/1`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use landfall_proto::alpn::Alpn;
use landfall_proto::calls::{Calls, Session as Streams};
use landfall_proto::endpoint::{Link, Target};
use landfall_proto::id::DiskTarget;
use landfall_proto::message::broker::Location;
use landfall_proto::message::control::{Point, PointState};
use landfall_proto::message::data::{ChangeSet, DataAnswer, DataRequest, Hello, POINTS_TOLD, Staged, Tip, Welcome};
use landfall_proto::seam::Clock;
use landfall_proto::{Class, Refusal, frame};
use quinn::{RecvStream, SendStream};
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::parcel::Parcel;
use crate::drive::image::Question;
use crate::drive::image::tree::Hash;
use crate::drive::limits::Pace;
use crate::drive::tally::Tally;
use crate::drive::transfers::Turn;

/// How long the other side may take to answer, or to take one more frame. Staging a large change set and syncing it on
/// a slow disk fits; a holder that is silent for longer is as good as gone.
const STALL: Duration = Duration::from_secs(60);

/// How long a node may take to take a session up.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);

/// Answers that wait to be read: more than one is always the end of the session.
const ANSWERS: usize = 4;

/// Why a session ended.
#[derive(Debug)]
pub enum Trouble {
    /// The replica is received elsewhere.
    Moved(Box<Location>),
    /// This node does not receive it, and does not know who does.
    NotHere,
    /// The other side refused.
    Refused(Refusal),
    /// No session could be opened: the node does not answer.
    NoNode(String),
    /// The connection is gone, or the other side is silent.
    Lost(String),
    /// What was to be sent cannot be read here.
    Spoilt(Refusal),
    /// This side failed: the VM could not be frozen, an image not read.
    Here(Refusal),
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Here(refusal)
    }
}

impl Trouble {
    /// The trouble as it is shown.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Moved(to) => {
                Refusal::new(Class::Failed, "moved", format!("the replica is received by {} now", to.node))
            }
            Self::NotHere => Refusal::new(Class::Failed, "not_here", "the node does not receive this replica"),
            Self::Refused(refusal) | Self::Spoilt(refusal) | Self::Here(refusal) => refusal.clone(),
            Self::NoNode(why) | Self::Lost(why) => Refusal::new(Class::Unreachable, "connection_lost", why.clone())
                .remedy("it is retried by itself; see `landfall node list` at the other cluster if it lasts"),
        }
    }
}

/// An open session.
pub struct Session {
    stream: SendStream,
    /// Kept so that the connection outlives its stream.
    _link: Link,
    answers: mpsc::Receiver<Result<DataAnswer, String>>,
    /// The newest point there.
    pub newest: Option<Tip>,
    /// What an earlier session left staged there.
    pub staged: Option<Staged>,
    /// Whether there is content to compare with.
    pub comparable: bool,
    /// The points that the holder lists.
    pub points: Vec<Point>,
    /// Whether the holder was sure that it still is the holder.
    pub confirmed: bool,
    meter: Meter,
}

/// What a session counts its bytes with, and waits by.
#[derive(Clone)]
pub struct Meter {
    /// Counts.
    pub tally: Tally,
    /// Limits.
    pub pace: Pace,
    /// The clock of the limits.
    pub clock: Arc<dyn Clock>,
}

/// Reads one message, and counts its frame.
async fn receive<T: DeserializeOwned>(stream: &mut RecvStream, tally: &Tally) -> Result<T, String> {
    let received = frame::receive_sized(stream, Alpn::Data.frame_max()).await.map_err(|error| error.to_string())?;
    let (message, size) = received.ok_or("the session has ended")?;
    tally.carried(0, size);
    Ok(message)
}

impl Session {
    /// Whether the holder has points of its own, whatever it says is its newest content.
    pub fn lists_points(&self) -> bool {
        self.points.iter().any(|point| point.state != PointState::Unreachable)
    }

    /// Opens a session at `target`; every frame of it is counted and paced by `meter`.
    pub async fn open(calls: &Calls, target: &Target, hello: &Hello, meter: Meter) -> Result<Self, Trouble> {
        let opened = calls.open(target, Alpn::Data, OPEN_DEADLINE).await;
        let Streams { send: mut stream, receive: mut recv, link } =
            opened.map_err(|error| Trouble::NoNode(error.to_string()))?;
        let most = Alpn::Data.frame_max();
        let hello = frame::encode(hello, most).map_err(|error| Trouble::Lost(error.to_string()))?;
        meter.tally.carried(0, hello.len() as u64);
        stream.write_all(&hello).await.map_err(|error| Trouble::Lost(error.to_string()))?;
        let welcome = match timeout(OPEN_DEADLINE, receive::<Welcome>(&mut recv, &meter.tally)).await {
            Ok(Ok(welcome)) => welcome,
            Ok(Err(error)) => return Err(Trouble::Lost(error)),
            Err(_) => return Err(Trouble::NoNode(format!("{} does not answer", target.address))),
        };
        let (newest, staged, comparable, mut points, confirmed) = match welcome {
            Welcome::Ready { newest, staged, comparable, points, confirmed } => {
                (newest, staged, comparable, points, confirmed)
            }
            Welcome::Moved(to) => return Err(Trouble::Moved(Box::new(to))),
            Welcome::NotHere => return Err(Trouble::NotHere),
            Welcome::Refused(refusal) => return Err(Trouble::Refused(refusal)),
        };
        points.truncate(POINTS_TOLD);
        let (heard, answers) = mpsc::channel(ANSWERS);
        let counting = meter.tally.clone();
        tokio::spawn(async move {
            loop {
                let answer = receive::<DataAnswer>(&mut recv, &counting).await;
                let last = answer.is_err();
                if heard.send(answer).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Self { stream, _link: link, answers, newest, staged, comparable, points, confirmed, meter })
    }

    /// Asks for the hashes of a run of nodes.
    pub async fn compare(&mut self, disk: &DiskTarget, question: Question) -> Result<Vec<Hash>, Trouble> {
        let Question { node_bytes, first, count } = question;
        self.send(&DataRequest::Compare { disk: disk.clone(), node_bytes, first, count }).await?;
        match self.answer().await? {
            DataAnswer::Hashes(hashes) => Ok(hashes),
            other => Err(unexpected(other)),
        }
    }

    /// Sends one extent: of a change set that has begun, whose sender gives its place up in `turn`, or of what fills a
    /// replica that has no point yet.
    pub async fn carry(&mut self, parcel: Parcel, turn: Option<&mut Turn>) -> Result<(), Trouble> {
        self.write(parcel.frame, parcel.content, turn).await
    }

    /// Begins a change set.
    pub async fn begin(&mut self, change_set: ChangeSet) -> Result<(), Trouble> {
        self.send(&DataRequest::Begin(change_set)).await?;
        match self.answer().await? {
            DataAnswer::Go => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Ends it; the point, and whether the holder was sure that it still is the holder.
    pub async fn end(&mut self, extents: u64) -> Result<(Point, bool), Trouble> {
        self.send(&DataRequest::End { extents }).await?;
        match self.answer().await? {
            DataAnswer::Acknowledged { point, confirmed } => Ok((point, confirmed)),
            other => Err(unexpected(other)),
        }
    }

    /// Goes away in peace.
    pub async fn bye(mut self) {
        drop(self.send(&DataRequest::Bye).await);
        drop(self.stream.shutdown().await);
    }

    async fn send(&mut self, request: &DataRequest) -> Result<(), Trouble> {
        let frame = frame::encode(request, Alpn::Data.frame_max()).map_err(|error| Trouble::Lost(error.to_string()))?;
        self.write(frame.into(), 0, None).await
    }

    /// Writes one frame, in pieces where a limit holds it back.
    async fn write(&mut self, mut frame: Bytes, mut content: u64, mut turn: Option<&mut Turn>) -> Result<(), Trouble> {
        while !frame.is_empty() {
            if let Some(turn) = turn.as_deref_mut() {
                unless_answered(&mut self.answers, async {
                    turn.renew().await;
                    Ok(())
                })
                .await?;
            }
            let piece = frame.split_to(self.meter.pace.piece().min(frame.len()));
            let wait = self.meter.pace.take(self.meter.clock.as_ref(), piece.len());
            self.meter.tally.carried(std::mem::take(&mut content), piece.len() as u64);
            self.write_piece(piece, wait).await?;
        }
        Ok(())
    }

    /// Writes a piece of a frame once it may. Waiting for that is no stall.
    async fn write_piece(&mut self, piece: Bytes, wait: Duration) -> Result<(), Trouble> {
        let Self { stream, answers, .. } = self;
        let written = async {
            if !wait.is_zero() {
                sleep(wait).await;
            }
            match timeout(STALL, stream.write_chunk(piece)).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(Trouble::Lost(error.to_string())),
                Err(_) => Err(Trouble::Lost("the other side takes no more data".to_owned())),
            }
        };
        unless_answered(answers, written).await
    }

    async fn answer(&mut self) -> Result<DataAnswer, Trouble> {
        match timeout(STALL, self.answers.recv()).await {
            Ok(Some(Ok(answer))) => Ok(answer),
            Ok(Some(Err(error))) => Err(Trouble::Lost(error)),
            Ok(None) => Err(Trouble::Lost("the session has ended".to_owned())),
            Err(_) => Err(Trouble::Lost("the other side does not answer".to_owned())),
        }
    }
}

/// Does `work` unless the other side has something to say first: during a change set that is a refusal.
async fn unless_answered<T>(
    answers: &mut mpsc::Receiver<Result<DataAnswer, String>>,
    work: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    tokio::select! {
        biased;
        early = answers.recv() => Err(match early {
            Some(Ok(answer)) => unexpected(answer),
            Some(Err(error)) => Trouble::Lost(error),
            None => Trouble::Lost("the session has ended".to_owned()),
        }),
        done = work => done,
    }
}

fn unexpected(answer: DataAnswer) -> Trouble {
    match answer {
        DataAnswer::Moved(to) => Trouble::Moved(Box::new(to)),
        DataAnswer::Refused(refusal) => Trouble::Refused(refusal),
        DataAnswer::Hashes(_) | DataAnswer::Go | DataAnswer::Acknowledged { .. } => {
            Trouble::Lost("the other side gave an answer that was not asked for".to_owned())
        }
    }
}
