//! The endpoint for monitoring a server: metrics, and whether it is alive and ready. It speaks HTTP/1.1 on a
//! thread of its own.
//!
//! No thread that serves peers waits for it. Connections, their requests and their time are limited; a connection
//! too many closes the oldest one. Work that needs the registry's lock is done once for all clients that ask at
//! the same time (`page`).

mod address;
mod page;
mod process;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use peeloff::{Handle, Health};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

pub use self::address::AdminAddress;
use self::page::{Format, Pages};
use crate::failure::Failure;

/// The name of the socket when it is passed to the process that takes the server over.
pub(crate) const ADMIN: &str = "admin";

/// The largest number of connections. One more closes the oldest one, which has had enough time: an answer takes
/// a millisecond.
const MOST_CONNECTIONS: usize = 64;
/// How long a connection may take from its first byte to its last.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest request, in bytes.
const LONGEST_REQUEST: usize = 16 << 10;
/// How long to wait if a connection cannot be accepted because no descriptor is left.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the dispatcher or a loop may be busy with one piece of work before the server counts as stuck.
const STUCK: Duration = Duration::from_secs(10);

/// Options of the monitoring endpoint.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Monitoring")]
pub struct AdminArgs {
    /// Serve metrics and health at this address, by HTTP.
    ///
    /// Write `127.0.0.1:9464`, or `unix:PATH` for a Unix socket. The paths are `/metrics` for Prometheus,
    /// `/healthz`, which fails if the server makes no progress, and `/readyz`, which fails while the server
    /// accepts no new peers. Anybody who can reach the address can read them.
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<AdminAddress>,
}

/// An endpoint that is bound, and does not answer yet.
pub(crate) struct Admin {
    /// The endpoint; none if the previous process had an endpoint and this one has none.
    endpoint: Option<(Listener, Runtime)>,
    /// The path of the previous process's socket, if this process has another address.
    former: Option<SocketFile>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The path of a Unix socket. Dropping this value removes it if it belongs to this process.
struct SocketFile {
    path: PathBuf,
    /// Whether the path belongs to this process. Until the start has succeeded, a socket that was taken over
    /// belongs to the previous process.
    is_own: bool,
}

impl SocketFile {
    fn of_predecessor(path: PathBuf) -> Self {
        Self { path, is_own: false }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_own {
            // The path may have been removed already.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// An endpoint that answers. Dropping this value removes its path, if it has one.
pub(crate) struct RunningEndpoint {
    task: Option<AbortHandle>,
    file: Option<SocketFile>,
}

impl RunningEndpoint {
    /// Lets another process answer from now on. That process has the path of a Unix socket, or removes it if it
    /// answers elsewhere.
    pub(crate) fn hand_over(mut self) {
        self.task.iter().for_each(AbortHandle::abort);
        std::mem::forget(self.file.take());
    }
}

impl AdminArgs {
    /// Binds the endpoint if the options ask for one, or takes over that of the previous process if it is the
    /// same.
    ///
    /// # Errors
    ///
    /// Returns an error if the address cannot be bound.
    pub(crate) fn bind(&self, offered: Option<OwnedFd>) -> Result<Option<Admin>, Failure> {
        self.try_bind(offered).map_err(|error| self.explain(&error))
    }

    /// Binds the address as a start does, until the returned value is dropped. Returns none if another program, such
    /// as the running server, listens there already.
    ///
    /// # Errors
    ///
    /// Returns an error if the address cannot be bound for another reason.
    pub(crate) fn reserve(&self) -> Result<Option<Admin>, Failure> {
        match self.try_bind(None) {
            Ok(admin) => Ok(admin),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(self.explain(&error)),
        }
    }

    fn explain(&self, error: &io::Error) -> Failure {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => "another program listens there: stop it, or choose another address",
            io::ErrorKind::AlreadyExists => "choose another path, or remove what is there",
            io::ErrorKind::PermissionDenied => {
                "choose a port above 1023, or a folder that this user can write to"
            }
            io::ErrorKind::NotFound => "create its folder first",
            _ => "choose an address of this host",
        };
        let address = self.admin.as_ref().map(ToString::to_string).unwrap_or_default();
        Failure::input(format_args!("--admin {address} cannot be listened at ({error}): {hint}"))
    }

    fn try_bind(&self, offered: Option<OwnedFd>) -> io::Result<Option<Admin>> {
        let former = offered.as_ref().and_then(|socket| SockRef::from(socket).local_addr().ok());
        let former = former.and_then(|address| address.as_pathname().map(Path::to_owned));
        let Some(address) = &self.admin else {
            let left = |path| Admin { endpoint: None, former: Some(SocketFile::of_predecessor(path)) };
            return Ok(former.map(left));
        };
        let taken = offered.and_then(|socket| address.take(socket));
        let former = former.filter(|_| taken.is_none()).map(SocketFile::of_predecessor);
        let listener = match (taken, address) {
            (Some(listener), _) => listener,
            (None, AdminAddress::Tcp(address)) => Listener::Tcp(bind_tcp(*address)?),
            (None, AdminAddress::Unix(path)) => {
                Listener::Unix(bind_unix(path)?, SocketFile { path: path.clone(), is_own: true })
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Some(Admin { endpoint: Some((listener, runtime)), former }))
    }
}

impl AdminAddress {
    /// Takes over a socket that listens at this address.
    fn take(&self, socket: OwnedFd) -> Option<Listener> {
        match self {
            Self::Tcp(address) => {
                let listener = TcpListener::from(socket);
                let bound = listener.local_addr().ok()?;
                let is_same = bound.ip() == address.ip() && [0, bound.port()].contains(&address.port());
                is_same.then_some(Listener::Tcp(listener))
            }
            Self::Unix(path) => {
                let listener = UnixListener::from(socket);
                let is_same = listener.local_addr().ok()?.as_pathname() == Some(path);
                is_same.then(|| Listener::Unix(listener, SocketFile::of_predecessor(path.clone())))
            }
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Binds the path for this user and its group, and replaces a socket that no process listens on any more.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let found = fs::symlink_metadata(path).ok();
    if found.as_ref().is_some_and(|found| !found.file_type().is_socket()) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is not a socket"));
    }
    if found.is_some() && is_abandoned(path)? {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Returns whether no process listens on a Unix socket any more. Never waits: if a process hangs and its backlog
/// is full, connect(2) returns EAGAIN ([connect(2)](https://man7.org/linux/man-pages/man2/connect.2.html)).
fn is_abandoned(path: &Path) -> io::Result<bool> {
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    let connected = probe.connect(&SockAddr::unix(path)?);
    Ok(connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

impl Admin {
    /// Starts to answer, on a thread of its own. Dropping the returned value removes the path of a Unix socket.
    /// The server passes a descriptor of the socket to the process that takes it over.
    ///
    /// # Errors
    ///
    /// Returns an error if no thread can be started.
    pub(crate) fn serve(self, handle: Handle) -> Result<RunningEndpoint, Failure> {
        let Self { endpoint, former } = self;
        if let Some(mut former) = former {
            // No process listens there any more, so remove the path.
            former.is_own = true;
        }
        let Some((listener, runtime)) = endpoint else {
            return Ok(RunningEndpoint { task: None, file: None });
        };
        let copy = match &listener {
            Listener::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Listener::Unix(listener, _) => listener.as_fd().try_clone_to_owned(),
        };
        if let Ok(copy) = copy {
            handle.pass_on(ADMIN, copy);
        }
        let responder = Arc::new(Responder::new(handle, STUCK));
        let (task, file) = match listener {
            Listener::Tcp(listener) => {
                if let Ok(address) = listener.local_addr() {
                    tracing::info!(%address, "metrics and health");
                    if !address.ip().is_loopback() {
                        tracing::warn!(%address, "--admin: other hosts may be able to reach this address and read the server's metrics and health");
                    }
                }
                (runtime.spawn(serve_tcp(listener, responder)), None)
            }
            Listener::Unix(listener, mut file) => {
                file.is_own = true;
                tracing::info!(address = %format_args!("unix:{}", file.path.display()), "metrics and health");
                (runtime.spawn(serve_unix(listener, responder)), Some(file))
            }
        };
        let answering = RunningEndpoint { task: Some(task.abort_handle()), file };
        let run = move || drop(runtime.block_on(task));
        let spawned = thread::Builder::new().name("admin".to_owned()).spawn(run);
        spawned.map(|_| answering).map_err(|error| {
            let why = format_args!("cannot start a thread for --admin ({error}): check the limit on threads");
            Failure::new(1, why)
        })
    }
}

async fn serve_tcp(listener: TcpListener, responder: Arc<Responder>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connections.begin(stream, &responder),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn serve_unix(listener: UnixListener, responder: Arc<Responder>) {
    let Ok(listener) = tokio::net::UnixListener::from_std(listener) else { return };
    let mut connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connections.begin(stream, &responder),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// The open connections, oldest first.
#[derive(Default)]
struct Connections(VecDeque<AbortHandle>);

impl Connections {
    fn begin(
        &mut self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        responder: &Arc<Responder>,
    ) {
        self.0.retain(|connection| !connection.is_finished());
        if self.0.len() >= MOST_CONNECTIONS
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        let responder = Arc::clone(responder);
        let answer = service_fn(move |request: Request<Incoming>| {
            let response = responder.to(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(LONGEST_REQUEST)
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), answer);
        // Errors of a connection concern only its client.
        let run = async move { drop(timeout(PATIENCE, connection).await) };
        self.0.push_back(tokio::spawn(run).abort_handle());
    }
}

struct Responder {
    handle: Handle,
    pages: Pages,
    /// How long a thread may be busy with one piece of work.
    stuck: Duration,
}

impl Responder {
    fn new(handle: Handle, stuck: Duration) -> Self {
        Self { pages: Pages::new(handle.clone()), handle, stuck }
    }

    fn to<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/metrics" => {
                let accept = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
                let format = Format::accepted(accept);
                match self.pages.get(format) {
                    Some(page) => respond(StatusCode::OK, format.content_type(), page),
                    None => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written"),
                }
            }
            "/healthz" => match stall_reason(&self.handle.health(), self.stuck) {
                None => text(StatusCode::OK, "alive"),
                Some(stall_reason) => text(StatusCode::SERVICE_UNAVAILABLE, &stall_reason),
            },
            "/readyz" => match self.handle.health().refuses {
                None => text(StatusCode::OK, "ready"),
                Some(refusal) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("no new peers: {refusal}")),
            },
            _ => text(StatusCode::NOT_FOUND, "the paths are /metrics, /healthz and /readyz"),
        }
    }
}

/// Returns what keeps a server from making progress.
fn stall_reason(health: &Health, stuck: Duration) -> Option<String> {
    let loops =
        health.loops_busy.iter().enumerate().map(|(number, busy)| (format!("event loop {number}"), *busy));
    let mut all = [("the dispatcher".to_owned(), health.dispatcher_busy)].into_iter().chain(loops);
    let (thread, busy) = all.find(|(_, busy)| *busy >= stuck)?;
    Some(format!("{thread} has been busy with the same work for {} s", busy.as_secs()))
}

fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", Bytes::from(format!("{line}\n")))
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Mutex, PoisonError};

    use peeloff::{Admission, HandlerError, Peer, PeerHandler, Refusal, Server};

    use super::*;

    /// Reports when it is called, and blocks until it is released: on the dispatcher thread, or on a peer's.
    struct Held {
        in_admit: bool,
        ends: Mutex<(Sender<()>, Receiver<()>)>,
    }

    impl Held {
        fn wait(&self) {
            let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
            ends.0.send(()).unwrap();
            let _ = ends.1.recv();
        }
    }

    impl PeerHandler for Held {
        fn admit(&self, _: &peeloff::Incoming) -> Admission {
            if self.in_admit {
                self.wait();
            }
            Admission::Accept
        }

        fn handle(&self, _: &mut Peer) -> Result<(), HandlerError> {
            if !self.in_admit {
                self.wait();
            }
            Ok(())
        }
    }

    /// Starts a server whose thread is blocked. Returns the server, its release, and a responder that considers a
    /// thread stuck after this time.
    fn held(in_admit: bool, stuck: Duration) -> (Server, Sender<()>, Responder) {
        let ((called, is_called), (release, released)) = (channel(), channel());
        let handler = Held { in_admit, ends: Mutex::new((called, released)) };
        let server = Server::builder().listen("udp://127.0.0.1:0").start(handler).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"x", server.addresses()[0].resolve().unwrap()[0]).unwrap();
        is_called.recv().unwrap();
        let responder = Responder::new(server.handle(), stuck);
        (server, release, responder)
    }

    fn status(responder: &Responder, path: &str) -> StatusCode {
        responder.to(&Request::get(path).body(()).unwrap()).status()
    }

    #[test]
    fn a_server_that_does_not_get_on_is_not_alive() {
        for (in_admit, stuck, expected) in [
            (true, Duration::from_nanos(1), StatusCode::SERVICE_UNAVAILABLE),
            (true, Duration::from_secs(3600), StatusCode::OK),
            // Handlers may block for any time.
            (false, Duration::from_secs(3600), StatusCode::OK),
        ] {
            let (_server, release, responder) = held(in_admit, stuck);
            assert_eq!(status(&responder, "/healthz"), expected, "{in_admit} {stuck:?}");
            release.send(()).unwrap();
        }
    }

    #[test]
    fn a_server_that_shuts_down_is_alive_and_not_ready() {
        let (server, release, responder) = held(false, STUCK);
        assert_eq!(status(&responder, "/readyz"), StatusCode::OK);
        let handle = server.handle();
        let shutdown = thread::spawn(move || handle.shutdown(Duration::from_secs(3600)));
        while status(&responder, "/readyz") == StatusCode::OK {
            thread::yield_now();
        }
        assert_eq!(server.handle().health().refuses, Some(Refusal::Draining));
        assert_eq!(status(&responder, "/healthz"), StatusCode::OK);
        release.send(()).unwrap();
        assert_eq!(shutdown.join().unwrap().finished, 1);
    }
}
