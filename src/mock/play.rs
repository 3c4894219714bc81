//! Plays steps on the wire. The only place that waits, cuts and stalls; what the steps are is [`super::score`]'s affair.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::wire::{Gone, Wire};

/// Bytes gathered before they are written, as long as nothing is waited for.
const GATHER_BYTES: usize = 64 << 10;

/// Bytes that `drip` writes between two waits when it states none.
const DRIP_RUN: usize = 32;

/// One thing to do on the wire.
#[derive(Debug, PartialEq)]
pub enum Step {
    Wait(Duration),
    Send(Vec<u8>),
    /// So many bytes of filling.
    Flood(usize),
    /// End the connection here.
    Cut,
    /// End it with a reset, where the transport has one.
    Reset,
}

/// How a played answer left the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The answer is complete; the connection may serve again.
    Whole,
    Cut,
    Reset,
}

/// Plays steps. `drip` writes byte by byte with that wait after each.
///
/// # Errors
/// [`Gone`] when the client leaves before the end.
pub async fn play<I>(wire: &mut Wire<'_, I>, steps: Vec<Step>, drip: Option<Duration>) -> Result<End, Gone>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut gathered: Vec<u8> = Vec::new();
    for step in steps {
        match step {
            Step::Send(bytes) if drip.is_some() => drop_by_drop(wire, &bytes, drip.unwrap_or_default()).await?,
            Step::Send(bytes) => {
                gathered.extend_from_slice(&bytes);
                if gathered.len() >= GATHER_BYTES {
                    wire.write(&gathered).await?;
                    gathered.clear();
                }
            }
            Step::Wait(time) if time.is_zero() => {}
            Step::Wait(time) => {
                wire.write(&gathered).await?;
                gathered.clear();
                wire.wait(time).await?;
            }
            Step::Flood(size) => {
                wire.write(&gathered).await?;
                gathered.clear();
                let filling = [b'x'; 16 << 10];
                let mut left = size;
                while left > 0 {
                    let now = left.min(filling.len());
                    wire.write(&filling[..now]).await?;
                    left -= now;
                }
            }
            Step::Cut => {
                wire.write(&gathered).await?;
                return Ok(End::Cut);
            }
            Step::Reset => return Ok(End::Reset),
        }
    }
    wire.write(&gathered).await?;
    Ok(End::Whole)
}

async fn drop_by_drop<I>(wire: &mut Wire<'_, I>, bytes: &[u8], wait: Duration) -> Result<(), Gone>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    // Timers count in milliseconds: for shorter waits several bytes share one.
    let run = match wait.as_micros() {
        0 => DRIP_RUN,
        micros => (1000 / micros).max(1) as usize,
    };
    for (i, byte) in bytes.iter().enumerate() {
        wire.write(std::slice::from_ref(byte)).await?;
        if run == 1 {
            wire.wait(wait).await?;
        } else if i % run == 0 {
            wire.wait(Duration::from_millis(1)).await?;
        } else {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}
