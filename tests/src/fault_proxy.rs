//! TCP proxies that can reset, stall and delay their connections.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What a proxy does with data and connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Forward,
    /// Resets new connections.
    Reset,
    /// Holds all data back, without an error.
    Stall,
    /// Forwards data after a delay.
    Delay(Duration),
}

/// The mode, and a generation that ends with a reset of all its connections.
#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    generation: u64,
}

/// A port of 127.0.0.1 that forwards its connections to another port. Dropping it closes the port.
#[derive(Debug)]
pub struct FaultProxy {
    name: String,
    port: u16,
    state: watch::Sender<State>,
    _accepting: AbortOnDropHandle<()>,
}

impl FaultProxy {
    /// Opens a proxy that forwards to the port `to`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn open(name: String, to: u16) -> io::Result<FaultProxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (state, receiver) = watch::channel(State { mode: Mode::Forward, generation: 0 });
        let accepting = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((client, _)) => drop(tokio::spawn(serve(client, to, receiver.clone()))),
                    Err(_) => sleep(Duration::from_millis(10)).await, // out of file descriptors
                }
            }
        });
        Ok(FaultProxy { name, port, state, _accepting: AbortOnDropHandle::new(accepting) })
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Resets all connections, and new ones for `duration`.
    pub async fn cut(&self, duration: Duration) {
        self.reset(Mode::Reset);
        sleep(duration).await;
        self.set_mode(Mode::Forward);
    }

    /// Forwards nothing for `duration`, then resets all connections.
    pub async fn stall(&self, duration: Duration) {
        self.set_mode(Mode::Stall);
        sleep(duration).await;
        self.reset(Mode::Forward);
    }

    /// Delays all data by `delay` for `duration`.
    pub async fn delay(&self, delay: Duration, duration: Duration) {
        self.set_mode(Mode::Delay(delay));
        sleep(duration).await;
        self.set_mode(Mode::Forward);
    }

    fn set_mode(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }

    fn reset(&self, mode: Mode) {
        let next = |state: &mut State| *state = State { mode, generation: state.generation + 1 };
        self.state.send_modify(next);
    }
}

/// Serves a connection until either side closes it or its generation ends.
async fn serve(mut client: TcpStream, to: u16, mut state: watch::Receiver<State>) {
    let State { mode, generation } = *state.borrow();
    if mode != Mode::Reset {
        let end = state.clone();
        tokio::select! {
            _ = connect_and_forward(&mut client, to, &mut state) => {}
            () = generation_ended(end, generation) => {}
        }
    }
    client.set_zero_linger().ok(); // dropping it resets the connection
}

async fn generation_ended(mut state: watch::Receiver<State>, generation: u64) {
    // An error means that the proxy is dropped, which ends the generation too.
    state.wait_for(|state| state.generation != generation).await.ok();
}

async fn connect_and_forward(
    client: &mut TcpStream,
    to: u16,
    state: &mut watch::Receiver<State>,
) -> io::Result<()> {
    until_forwarding(state).await?;
    let mut server = timeout(CONNECT_TIMEOUT, TcpStream::connect(("127.0.0.1", to))).await??;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        forward(from_client, to_server, state.clone()),
        forward(from_server, to_client, state.clone())
    )?;
    Ok(())
}

/// Forwards one direction until it is closed.
async fn forward(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if let Mode::Delay(delay) = until_forwarding(&mut state).await? {
            sleep(delay).await;
        }
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}

/// Waits while the proxy stalls.
async fn until_forwarding(state: &mut watch::Receiver<State>) -> io::Result<Mode> {
    let state = state.wait_for(|state| state.mode != Mode::Stall).await;
    Ok(state.map_err(io::Error::other)?.mode)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    /// A proxy of an echo server.
    async fn proxy() -> FaultProxy {
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

    async fn connect(proxy: &FaultProxy) -> TcpStream {
        TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap()
    }

    async fn echo(client: &mut TcpStream) -> io::Result<[u8; 3]> {
        client.write_all(b"abc").await?;
        let mut back = [0; 3];
        client.read_exact(&mut back).await?;
        Ok(back)
    }

    /// Runs `test` while the fault lasts.
    async fn during<T>(fault: impl Future<Output = ()>, test: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            () = fault => panic!("the fault ended first"),
            result = test => result,
        }
    }

    #[tokio::test]
    async fn data_is_forwarded_in_both_directions_until_the_client_closes() {
        let proxy = proxy().await;
        let mut client = connect(&proxy).await;
        assert_eq!(&echo(&mut client).await.unwrap(), b"abc");
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_cut_resets_open_and_new_connections() {
        let proxy = proxy().await;
        let mut client = connect(&proxy).await;
        echo(&mut client).await.unwrap();
        during(proxy.cut(LONG), async {
            assert!(client.read(&mut [0]).await.is_err());
            assert!(echo(&mut connect(&proxy).await).await.is_err());
        })
        .await;
    }

    #[tokio::test]
    async fn a_stall_holds_data_back_without_an_error_and_then_resets() {
        let proxy = proxy().await;
        let mut client = connect(&proxy).await;
        echo(&mut client).await.unwrap();
        let short = Duration::from_millis(100);
        during(proxy.stall(LONG), async {
            assert!(timeout(short, echo(&mut client)).await.is_err(), "no data arrives");
            assert!(timeout(short, echo(&mut connect(&proxy).await)).await.is_err());
        })
        .await;
        proxy.stall(Duration::ZERO).await;
        assert!(client.read(&mut [0]).await.is_err());
        assert_eq!(&echo(&mut connect(&proxy).await).await.unwrap(), b"abc");
    }

    #[tokio::test]
    async fn a_delay_applies_to_both_directions() {
        let proxy = proxy().await;
        let mut client = connect(&proxy).await;
        let delay = Duration::from_millis(50);
        let since = Instant::now();
        assert_eq!(&during(proxy.delay(delay, LONG), echo(&mut client)).await.unwrap(), b"abc");
        assert!(since.elapsed() >= 2 * delay);
    }
}
