//! A headless Chromium, controlled over WebDriver.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;
use std::{env, io};

use anyhow::{Context, bail};
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use reqwest::{Method, Url};
use serde_json::json;
use shop_supervisor::embedded::ChildGuard;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

use crate::{Folder, free_port};

const INSTALL: &str = "a browser is needed: install Chromium and its driver \
    (Debian: apt-get install chromium chromium-driver)";
const START_TIMEOUT: Duration = Duration::from_secs(60);
const PAGE_TIMEOUT_MS: u32 = 60_000;

/// A window with a profile of its own. The profile is deleted with the window, at the latest with the
/// test process.
#[derive(Debug)]
pub struct Browser {
    /// The page in the window.
    pub page: Client,
}

impl Browser {
    /// Opens a window, 1280 pixels wide.
    ///
    /// # Errors
    /// When Chromium or its driver is not installed or does not start.
    pub async fn open() -> anyhow::Result<Self> {
        // One driver opens all windows of this process.
        static DRIVER: OnceCell<Driver> = OnceCell::const_new();
        let driver = DRIVER.get_or_try_init(Driver::start).await?;
        let arguments = [
            "--headless=new",
            "--no-sandbox", // unavailable to root
            "--disable-gpu",
            "--disable-dev-shm-usage", // containers have little shared memory
            "--no-proxy-server",
            "--remote-debugging-pipe", // the browser exits when the driver closes it
            "--window-size=1280,900",
        ];
        let capabilities = [
            ("goog:chromeOptions", json!({"args": arguments})),
            ("goog:loggingPrefs", json!({"browser": "ALL"})),
            ("timeouts", json!({"pageLoad": PAGE_TIMEOUT_MS, "script": PAGE_TIMEOUT_MS})),
        ];
        let capabilities = capabilities.map(|(name, value)| (name.to_owned(), value));
        let mut session = ClientBuilder::new(HttpConnector::new());
        session.capabilities(Capabilities::from_iter(capabilities));
        let url = format!("http://127.0.0.1:{}", driver.port);
        let page = timeout(START_TIMEOUT, session.connect(&url)).await;
        let page = page.context("no window opened within 60 s")?.context(INSTALL)?;
        Ok(Self { page })
    }

    /// The errors in the console since the last call.
    ///
    /// # Errors
    /// When the browser has exited.
    pub async fn console_errors(&self) -> anyhow::Result<Vec<String>> {
        let log = self.page.issue_cmd(ReadConsole).await?;
        let lines = log.as_array().context("the console is a list")?;
        let errors = lines.iter().filter(|line| line["level"] == "SEVERE");
        Ok(errors.map(|line| line["message"].to_string()).collect())
    }

    /// Closes the window.
    ///
    /// # Errors
    /// When the browser has exited.
    pub async fn close(self) -> anyhow::Result<()> {
        Ok(self.page.close().await?)
    }
}

/// Reads the console: an extension of chromedriver.
#[derive(Debug)]
struct ReadConsole;

impl WebDriverCompatibleCommand for ReadConsole {
    fn endpoint(&self, driver: &Url, session: Option<&str>) -> Result<Url, <Url as FromStr>::Err> {
        driver.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(json!({"type": "browser"}).to_string()))
    }
}

/// The process that opens windows. It ends with the test process, and the windows with it.
#[derive(Debug)]
struct Driver {
    port: u16,
    _folder: Folder,
    _running: ChildGuard,
}

impl Driver {
    async fn start() -> anyhow::Result<Self> {
        let (program, folder, port) = (program()?, Folder::new("shop-chromedriver")?, free_port());
        let output = folder.path().join("output");
        let mut driver = spawn_service(&program, folder.path(), port, &output)?;
        let last_words = || fs::read_to_string(&output).unwrap_or_default();
        tokio::select! {
            ended = driver.exited() => {
                bail!("chromedriver did not start ({}): {}", ended?, last_words())
            }
            answered = timeout(START_TIMEOUT, answers(port)) => answered.with_context(|| {
                format!("chromedriver did not start within 60 s: {}", last_words())
            })?,
        }
        Ok(Self { port, _folder: folder, _running: driver })
    }
}

/// Starts chromedriver without access to the user's own profile.
fn spawn_service(
    program: &Path,
    folder: &Path,
    port: u16,
    output: &Path,
) -> io::Result<ChildGuard> {
    let output = File::create(output)?;
    let mut command = ChildGuard::command(program, "KILL");
    command
        .arg(format!("--port={port}"))
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap_or_default())
        .env("LANG", "C.UTF-8")
        .env("HOME", folder)
        .env("TMPDIR", folder) // of the profiles
        .stdout(output.try_clone()?)
        .stderr(Stdio::from(output));
    ChildGuard::spawn(command)
}

async fn answers(port: u16) {
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        sleep(Duration::from_millis(20)).await;
    }
}

fn program() -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut on_path = env::split_paths(&path).map(|folder| folder.join("chromedriver"));
    on_path.find(|program| program.is_file()).context(INSTALL)
}
