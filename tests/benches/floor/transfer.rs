//! An image read, sent over one bare quinn stream, written at the other end, synced and answered: what sending a whole
//! replica costs with nothing around it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use quinn::Endpoint;

use super::image::{Image, PIECE};
use super::link::{Client, Papers, server};

/// Sends it once, both ends in this process; returns MiB a second until the answer that it is synced.
pub fn measure(image: &Image) -> f64 {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let target = image.beside("sent.raw");
    let rate = runtime.block_on(async {
        let (papers, own) = Papers::pair();
        let endpoint = server(&papers);
        let client = Client::new(&own, endpoint.local_addr().expect("a bound socket"));
        let receiver = tokio::spawn(receive(endpoint, target.clone()));
        let connection = client.connect().await;
        let begun = Instant::now();
        let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
        let mut source = File::open(image.path()).expect("an image");
        let mut piece = vec![0; PIECE];
        loop {
            // The page cache has it: a read is a copy, not a wait.
            match source.read(&mut piece).expect("an image") {
                0 => break,
                len => send.write_all(&piece[..len]).await.expect("a receiver"),
            }
        }
        send.finish().expect("an open stream");
        let answer = recv.read_to_end(8).await.expect("an answer");
        let rate = image.rate(begun);
        assert_eq!(answer, image.bytes().to_le_bytes());
        connection.close(0_u32.into(), b"");
        receiver.await.expect("a receiver");
        rate
    });
    std::fs::remove_file(target).ok();
    rate
}

async fn receive(endpoint: Endpoint, target: PathBuf) {
    let connection = endpoint.accept().await.expect("a sender").await.expect("a handshake on loopback");
    let (mut send, mut recv) = connection.accept_bi().await.expect("a stream");
    let (pieces, mut waiting) = tokio::sync::mpsc::channel::<bytes::Bytes>(64);
    let writer = tokio::task::spawn_blocking(move || {
        let (mut file, mut bytes) = (File::create(target).expect("a file"), 0_u64);
        while let Some(piece) = waiting.blocking_recv() {
            file.write_all(&piece).expect("room for an image");
            bytes += piece.len() as u64;
        }
        file.sync_data().expect("a sync");
        bytes
    });
    while let Some(chunk) = recv.read_chunk(PIECE, true).await.expect("a sender") {
        pieces.send(chunk.bytes).await.expect("a writer");
    }
    drop(pieces);
    let bytes = writer.await.expect("a writer");
    send.write_all(&bytes.to_le_bytes()).await.expect("a sender");
    send.finish().expect("an open stream");
    connection.closed().await;
}
