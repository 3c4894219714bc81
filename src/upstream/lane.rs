//! The kept HTTP/1.1 connections to one address.
//!
//! Never waits and never dials: whoever finds none makes one.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::sleep;

use super::http1::Conn;
use super::{POOL_IDLE, POOL_MAX_IDLE};

/// Looks at the connections in the longest time that one is kept: it goes at that many, so at three quarters of it or later.
const ROUNDS: u32 = 4;

/// The connections that nobody uses now, the one used last at the end.
#[derive(Default)]
pub struct Lane {
    // Each worker has its own lanes, so the lock is never contended; it is there because futures must be `Send`.
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// Each with the round in which it was left here.
    conns: Vec<(u32, Box<Conn>)>,
    /// A task looks after those that nobody comes for.
    watched: bool,
    /// How often that task has looked. Rounds instead of moments: a request then reads no clock for its connection.
    round: u32,
}

impl Lane {
    /// A connection that is still good. The one used last is the least likely to be closed, and its memory is warm.
    pub fn take(&self) -> Option<Box<Conn>> {
        loop {
            let (_, conn) = self.idle().conns.pop()?;
            if conn.is_quiet() {
                return Some(conn);
            }
        }
    }

    /// Keeps a connection for the next request.
    pub fn put(self: &Arc<Self>, conn: Box<Conn>) {
        let mut idle = self.idle();
        if idle.conns.len() >= POOL_MAX_IDLE {
            return;
        }
        let round = idle.round;
        idle.conns.push((round, conn));
        if !std::mem::replace(&mut idle.watched, true) {
            tokio::spawn(watch(self.clone()));
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes connections that have waited too long, until there are none.
async fn watch(lane: Arc<Lane>) {
    loop {
        sleep(POOL_IDLE / ROUNDS).await;
        let mut idle = lane.idle();
        let now = idle.round.wrapping_add(1);
        idle.round = now;
        let old = idle.conns.partition_point(|(then, _)| now.wrapping_sub(*then) >= ROUNDS);
        let closed: Vec<_> = idle.conns.drain(..old).collect();
        idle.watched = !idle.conns.is_empty();
        let done = !idle.watched;
        drop(idle);
        drop(closed);
        if done {
            return;
        }
    }
}
