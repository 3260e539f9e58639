//! TCP links that can be cut, hang and be slow.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

const CONNECT_PATIENCE: Duration = Duration::from_secs(2);

/// What a link does with what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    Fair,
    /// Whoever connects is reset at once.
    Cut,
    /// Nothing arrives, and nobody is told.
    Hanging,
    /// Everything arrives later.
    Slow(Duration),
}

/// The weather, and an era that ends with every connection of it.
#[derive(Clone, Copy, Debug)]
struct State {
    weather: Weather,
    era: u64,
}

/// A port of 127.0.0.1 whose connections lead to another. Dropped, it is closed.
#[derive(Debug)]
pub struct FaultProxy {
    name: String,
    port: u16,
    state: watch::Sender<State>,
    _accepting: AbortOnDropHandle<()>,
}

impl FaultProxy {
    /// A link to the port `to`.
    pub async fn open(name: String, to: u16) -> io::Result<FaultProxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (state, seen) = watch::channel(State { weather: Weather::Fair, era: 0 });
        let accepting = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((client, _)) => drop(tokio::spawn(connection(client, to, seen.clone()))),
                    Err(_) => sleep(Duration::from_millis(10)).await, // too many files, say
                }
            }
        });
        Ok(FaultProxy { name, port, state, _accepting: AbortOnDropHandle::new(accepting) })
    }

    /// From where to where, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Resets every connection, and every new one for so long.
    pub async fn cut(&self, lasts: Duration) {
        self.reset(Weather::Cut);
        sleep(lasts).await;
        self.turn(Weather::Fair);
    }

    /// Carries nothing for so long, then resets whoever waited.
    pub async fn hang(&self, lasts: Duration) {
        self.turn(Weather::Hanging);
        sleep(lasts).await;
        self.reset(Weather::Fair);
    }

    /// Carries everything later by `by`, for so long.
    pub async fn delay(&self, by: Duration, lasts: Duration) {
        self.turn(Weather::Slow(by));
        sleep(lasts).await;
        self.turn(Weather::Fair);
    }

    fn turn(&self, weather: Weather) {
        self.state.send_modify(|state| state.weather = weather);
    }

    fn reset(&self, weather: Weather) {
        self.state.send_modify(|state| *state = State { weather, era: state.era + 1 });
    }
}

/// One client, until either side closes or the era ends.
async fn connection(mut client: TcpStream, to: u16, mut state: watch::Receiver<State>) {
    let State { weather, era } = *state.borrow();
    if weather != Weather::Cut {
        let over = state.clone();
        tokio::select! {
            _ = lead(&mut client, to, &mut state) => {}
            () = ended(over, era) => {}
        }
    }
    client.set_zero_linger().ok(); // its end is a reset
}

async fn ended(mut state: watch::Receiver<State>, era: u64) {
    state.wait_for(|state| state.era != era).await.ok(); // the link is gone: so is the era
}

async fn lead(
    client: &mut TcpStream,
    to: u16,
    state: &mut watch::Receiver<State>,
) -> io::Result<()> {
    carries(state).await?;
    let mut server = timeout(CONNECT_PATIENCE, TcpStream::connect(("127.0.0.1", to))).await??;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        carry(from_client, to_server, state.clone()),
        carry(from_server, to_client, state.clone())
    )?;
    Ok(())
}

/// One direction, until it is closed.
async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        let weather = carries(&mut state).await?;
        if let Weather::Slow(by) = weather {
            sleep(by).await;
        }
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}

/// Waits until the link carries again.
async fn carries(state: &mut watch::Receiver<State>) -> io::Result<Weather> {
    let carries = state.wait_for(|state| state.weather != Weather::Hanging).await;
    Ok(carries.map_err(io::Error::other)?.weather)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    /// A server that sends back what it gets, and a link to it.
    async fn link() -> FaultProxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = client.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        FaultProxy::open("test".to_owned(), port).await.unwrap()
    }

    async fn connect(link: &FaultProxy) -> TcpStream {
        TcpStream::connect(("127.0.0.1", link.port())).await.unwrap()
    }

    async fn echo(client: &mut TcpStream) -> io::Result<[u8; 3]> {
        client.write_all(b"abc").await?;
        let mut back = [0; 3];
        client.read_exact(&mut back).await?;
        Ok(back)
    }

    /// Resolves when a change of the weather was seen.
    async fn during<T>(fault: impl Future<Output = ()>, seen: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            () = fault => panic!("the fault ended first"),
            seen = seen => seen,
        }
    }

    #[tokio::test]
    async fn a_fair_link_carries_both_ways_and_ends_with_its_client() {
        let link = link().await;
        let mut client = connect(&link).await;
        assert_eq!(&echo(&mut client).await.unwrap(), b"abc");
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_cut_link_resets_who_is_there_and_who_comes() {
        let link = link().await;
        let mut there = connect(&link).await;
        echo(&mut there).await.unwrap();
        during(link.cut(LONG), async {
            assert!(there.read(&mut [0]).await.is_err());
            assert!(echo(&mut connect(&link).await).await.is_err());
        })
        .await;
    }

    #[tokio::test]
    async fn a_hanging_link_tells_nobody_and_then_resets() {
        let link = link().await;
        let mut there = connect(&link).await;
        echo(&mut there).await.unwrap();
        let silent = Duration::from_millis(100);
        during(link.hang(LONG), async {
            assert!(timeout(silent, echo(&mut there)).await.is_err(), "nothing comes back");
            assert!(timeout(silent, echo(&mut connect(&link).await)).await.is_err());
        })
        .await;
        link.hang(Duration::ZERO).await;
        assert!(there.read(&mut [0]).await.is_err());
        assert_eq!(&echo(&mut connect(&link).await).await.unwrap(), b"abc");
    }

    #[tokio::test]
    async fn a_slow_link_takes_its_time() {
        let link = link().await;
        let mut client = connect(&link).await;
        let by = Duration::from_millis(50);
        let since = Instant::now();
        assert_eq!(&during(link.delay(by, LONG), echo(&mut client)).await.unwrap(), b"abc");
        assert!(since.elapsed() >= 2 * by);
    }
}
