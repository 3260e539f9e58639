//! Runs the load generator wrk with generated Lua scripts and parses its results.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, ensure};
use serde::Deserialize;
use tokio::process::Command;

use crate::programs;
use crate::users::User;

/// Timeout of one response. Long, because logins queue for seconds.
const RESPONSE_TIMEOUT: &str = "20s";

/// Number of different requests that each thread generates before the load starts.
const GENERATED_REQUESTS: u32 = 4096;

/// Gives each thread its own random seed.
const SEED: &str = "
local threads = 0
function setup(thread)
    threads = threads + 1
    thread:set('seed', os.time() + 7919 * threads)
end
";

/// Sends the requests that `generate` has returned, one after the other.
const SEND: &str = "
local requests, index = {}, 0
function init()
    math.randomseed(seed)
    for number = 1, generated do requests[number] = generate() end
end
function request()
    index = index % generated + 1
    return requests[index]
end
";

/// Prints the results as one line of JSON.
const REPORT: &str = r#"
function done(summary, latency)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    io.write(string.format(
        '\nmeasured {"requests":%d,"micros":%d,"failed":%d,"p50":%d,"p99":%d,"p999":%d,"max":%d}\n',
        summary.requests, summary.duration, failed, latency:percentile(50),
        latency:percentile(99), latency:percentile(99.9), latency.max))
end
"#;

/// The requests of a load.
#[derive(Clone, Debug)]
pub enum Script {
    /// Always the same request.
    Get { token: String },
    /// A path in which `%d` is a random number from `first` to `last`.
    GetNumbered { token: String, path: String, first: i64, last: i64 },
    /// Orders of two different products with ids up to `products`, each by a random buyer.
    PlaceOrders { buyers: Vec<User>, products: i64 },
    /// Logins with a password.
    LogIn { username: String, password: String },
}

/// A load on one server.
#[derive(Clone, Debug)]
pub struct Load {
    pub url: String,
    pub script: Script,
    pub threads: u32,
    pub connections: u32,
    pub seconds: u64,
    /// Requests per second over all connections, with random arrival times. `None`: the maximum.
    pub rate: Option<f64>,
}

/// The results of a load. Times are in microseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct WrkReport {
    pub requests: u64,
    pub micros: u64,
    pub failed: u64,
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl Load {
    /// Runs the load. Its script is written to `folder`.
    pub async fn run(&self, folder: PathBuf) -> anyhow::Result<WrkReport> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let script = folder.join(format!("load-{number}.lua"));
        std::fs::write(&script, self.lua())?;
        let mut wrk = Command::new(programs::wrk()?);
        wrk.args(["-t", &self.threads.to_string(), "-c", &self.connections.to_string()]);
        wrk.args(["-d", &format!("{}s", self.seconds), "--timeout", RESPONSE_TIMEOUT, "-s"]);
        wrk.arg(&script).arg(&self.url).stdin(Stdio::null()).kill_on_drop(true);
        let output = wrk.output().await.context("cannot run wrk")?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "wrk failed: {stdout}{stderr}");
        let line = stdout.lines().find_map(|line| line.strip_prefix("measured "));
        let line = line.with_context(|| format!("wrk printed no results: {stdout}{stderr}"))?;
        std::fs::remove_file(script)?;
        serde_json::from_str(line).with_context(|| format!("invalid results of wrk: {line}"))
    }

    fn lua(&self) -> String {
        let requests = match &self.script {
            Script::Get { token } => authorization(token),
            Script::GetNumbered { token, path, first, last } => {
                let generate = format!(
                    "local function generate()
                        return wrk.format('GET', string.format('{path}', math.random({first}, {last})))
                    end\n"
                );
                [authorization(token).as_str(), SEED, &generated(), &generate, SEND].concat()
            }
            Script::PlaceOrders { buyers, products } => {
                [SEED, &generated(), &place_orders(buyers, *products), SEND].concat()
            }
            Script::LogIn { username, password } => format!(
                "wrk.method = 'POST'
                wrk.headers['Content-Type'] = 'application/json'
                wrk.body = '{{\"username\":\"{username}\",\"password\":\"{password}\"}}'\n"
            ),
        };
        [requests.as_str(), &self.delay(), REPORT].concat()
    }

    /// Defines the delay between a response and the next request of its connection. Many
    /// connections with exponential delays together send requests at the rate, with random arrival
    /// times that depend little on the response times.
    fn delay(&self) -> String {
        let Some(rate) = self.rate else { return String::new() };
        let mean = f64::from(self.connections) / rate * 1000.0;
        format!("function delay() return math.floor(-{mean} * math.log(1 - math.random())) end\n")
    }
}

fn authorization(token: &str) -> String {
    format!("wrk.headers['Authorization'] = 'Bearer {token}'\n")
}

fn generated() -> String {
    format!("local generated = {GENERATED_REQUESTS}\n")
}

fn place_orders(buyers: &[User], products: i64) -> String {
    let pairs = buyers.iter().map(|buyer| format!("{{'{}','{}'}}", buyer.id, buyer.token));
    let buyers = pairs.collect::<Vec<_>>().join(",\n");
    format!(
        r#"local buyers = {{{buyers}}}
        local body = '{{"user_id":"%s","items":[{{"product_id":%d,"quantity":1}},{{"product_id":%d,"quantity":2}}]}}'
        local function generate()
            local buyer = buyers[math.random(#buyers)]
            local first, second = math.random({products}), math.random({products} - 1)
            if second >= first then second = second + 1 end
            local headers = {{}}
            headers['Authorization'] = 'Bearer ' .. buyer[2]
            headers['Content-Type'] = 'application/json'
            return wrk.format('POST', nil, headers, string.format(body, buyer[1], first, second))
        end
        "#
    )
}
