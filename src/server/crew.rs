//! Which worker serves a connection: the one that has fewest.
//!
//! The kernel tells whoever began to wait last, which on a calm machine is mostly the same one. It would end up with every
//! connection, and whatever takes long on it would hold them all up, while others have nothing to do.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Open;

/// The workers of a process.
pub struct Crew(Vec<Member>);

struct Member {
    /// Connections that it serves or was given.
    open: Arc<AtomicUsize>,
    given: UnboundedSender<Given>,
}

/// A connection that another worker has accepted.
pub struct Given {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    open: Open,
}

impl Given {
    /// The connection, in the runtime that it is to be served in.
    ///
    /// # Errors
    /// That cannot take it.
    pub fn stream(self) -> io::Result<(TcpStream, SocketAddr, Open)> {
        Ok((TcpStream::from_std(self.stream)?, self.peer, self.open))
    }
}

impl Crew {
    /// So many workers, and what each is given, in order.
    pub fn of(count: usize) -> (Arc<Crew>, Vec<UnboundedReceiver<Given>>) {
        let hire = |_| {
            let (given, takes) = unbounded_channel();
            (Member { open: Arc::default(), given }, takes)
        };
        let (members, takes) = (0..count.max(1)).map(hire).unzip();
        (Arc::new(Crew(members)), takes)
    }

    /// Connections that a worker serves or was given.
    pub fn open(&self, worker: usize) -> usize {
        self.0[worker].open.load(Relaxed)
    }

    /// Gives a connection that this worker has accepted to the one that has fewest. Some when that is itself.
    ///
    /// # Errors
    /// The connection cannot leave this worker's runtime.
    pub fn place(
        &self,
        worker: usize,
        (stream, peer): (TcpStream, SocketAddr),
        all: &Arc<AtomicUsize>,
    ) -> io::Result<Option<(TcpStream, SocketAddr, Open)>> {
        // Among equals itself: to hand one over costs more than to serve it.
        let chosen = (0..self.0.len()).min_by_key(|number| (self.open(*number), *number != worker)).unwrap_or(worker);
        let member = &self.0[chosen];
        let open = Open::new([all.clone(), member.open.clone()]);
        if chosen == worker {
            return Ok(Some((stream, peer, open)));
        }
        match member.given.send(Given { stream: stream.into_std()?, peer, open }) {
            Ok(()) => Ok(None),
            // It takes none any more.
            Err(back) => {
                let Given { stream, peer, .. } = back.0;
                let open = Open::new([all.clone(), self.0[worker].open.clone()]);
                Ok(Some((TcpStream::from_std(stream)?, peer, open)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn accepted(listener: &TcpListener) -> (TcpStream, (TcpStream, SocketAddr)) {
        let address = listener.local_addr().expect("an address");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.expect("connects"), accepted.expect("is accepted"))
    }

    #[tokio::test]
    async fn whoever_has_fewest_is_given_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (crew, mut takes) = Crew::of(3);
        let all = Arc::default();
        let mut clients = Vec::new();
        let mut kept = Vec::new();
        for _ in 0..9 {
            let (client, accepted) = accepted(&listener).await;
            clients.push(client);
            kept.extend(crew.place(1, accepted, &all).expect("is placed"));
        }
        assert_eq!([0, 1, 2].map(|number| crew.open(number)), [3, 3, 3]);
        assert_eq!((kept.len(), all.load(Relaxed)), (3, 9));
        let mut of_first: Vec<_> = std::iter::from_fn(|| takes[0].try_recv().ok()).collect();
        assert_eq!(of_first.len(), 3);
        let (stream, peer, open) = of_first.remove(0).stream().expect("is taken");
        assert_eq!(stream.peer_addr().expect("is connected"), peer);
        drop((of_first, open));
        assert_eq!((crew.open(0), all.load(Relaxed)), (0, 6), "what has ended is not counted");

        // Who takes none any more is not counted on.
        takes[0].close();
        let (_client, accepted) = accepted(&listener).await;
        let back = crew.place(1, accepted, &all).expect("is placed");
        assert!(back.is_some());
        assert_eq!([0, 1, 2].map(|number| crew.open(number)), [0, 4, 3]);
    }
}
