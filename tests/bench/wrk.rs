//! The load generator: wrk, told by small Lua scripts what to ask, read back as figures.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, ensure};
use serde::Deserialize;
use tokio::process::Command;

use crate::people::Person;
use crate::programs;

/// An answer that takes longer is an error: logins queue for seconds.
const LONGEST_ANSWER: &str = "20s";

/// So many different requests are made up before the load begins.
const MADE_UP: u32 = 4096;

/// Gives every thread dice of its own.
const DICE: &str = "
local threads = 0
function setup(thread)
    threads = threads + 1
    thread:set('seed', os.time() + 7919 * threads)
end
";

/// Asks one after the other of what `make` made up.
const ASK: &str = "
local requests, at = {}, 0
function init()
    math.randomseed(seed)
    for number = 1, made_up do requests[number] = make() end
end
function request()
    at = at % made_up + 1
    return requests[at]
end
";

const REPORT: &str = r#"
function done(summary, latency)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    io.write(string.format(
        '\nmeasured {"requests":%d,"micros":%d,"failed":%d,"p50":%d,"p99":%d,"p999":%d,"most":%d}\n',
        summary.requests, summary.duration, failed, latency:percentile(50),
        latency:percentile(99), latency:percentile(99.9), latency.max))
end
"#;

/// What is asked.
#[derive(Clone, Debug)]
pub enum Script {
    /// The same, always.
    Get { token: String },
    /// A path with a number in it (`%d`), made up between two.
    GetNumbered { token: String, path: String, first: i64, last: i64 },
    /// Two different products out of so many, for one of these people, in their own name.
    PlaceOrders { buyers: Vec<Person>, products: i64 },
    /// Signing in.
    LogIn { username: String, password: String },
}

/// A load: what, by how many, how long.
#[derive(Clone, Debug)]
pub struct Load {
    pub url: String,
    pub script: Script,
    pub threads: u32,
    pub connections: u32,
    pub seconds: u64,
    /// So many requests a second all together, at moments that do not depend on each other; as many as can be when
    /// nothing is said.
    pub rate: Option<f64>,
}

/// What came of a load. Times are in microseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Said {
    pub requests: u64,
    pub micros: u64,
    pub failed: u64,
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub most: u64,
}

impl Load {
    /// Runs it; its script goes to `folder`.
    pub async fn run(&self, folder: PathBuf) -> anyhow::Result<Said> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let script = folder.join(format!("load-{number}.lua"));
        std::fs::write(&script, self.lua())?;
        let mut wrk = Command::new(programs::wrk()?);
        wrk.args(["-t", &self.threads.to_string(), "-c", &self.connections.to_string()]);
        wrk.args(["-d", &format!("{}s", self.seconds), "--timeout", LONGEST_ANSWER, "-s"]);
        wrk.arg(&script).arg(&self.url).stdin(Stdio::null()).kill_on_drop(true);
        let output = wrk.output().await.context("wrk")?;
        let words = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "wrk did not run: {words}{complaint}");
        let line = words.lines().find_map(|line| line.strip_prefix("measured "));
        let line = line.with_context(|| format!("wrk said no figures: {words}{complaint}"))?;
        std::fs::remove_file(script)?;
        serde_json::from_str(line).with_context(|| format!("figures of wrk: {line}"))
    }

    fn lua(&self) -> String {
        let asked = match &self.script {
            Script::Get { token } => authorized(token),
            Script::GetNumbered { token, path, first, last } => {
                let make = format!(
                    "local function make()
                        return wrk.format('GET', string.format('{path}', math.random({first}, {last})))
                    end\n"
                );
                [authorized(token).as_str(), DICE, &made_up(), &make, ASK].concat()
            }
            Script::PlaceOrders { buyers, products } => {
                [DICE, &made_up(), &place_orders(buyers, *products), ASK].concat()
            }
            Script::LogIn { username, password } => format!(
                "wrk.method = 'POST'
                wrk.headers['Content-Type'] = 'application/json'
                wrk.body = '{{\"username\":\"{username}\",\"password\":\"{password}\"}}'\n"
            ),
        };
        [asked.as_str(), &self.pauses(), REPORT].concat()
    }

    /// Between an answer and the next request of its connection, so that all together come to the rate: with many
    /// connections that wait at random, requests arrive at random, whatever the answers take.
    fn pauses(&self) -> String {
        let Some(rate) = self.rate else { return String::new() };
        let mean = f64::from(self.connections) / rate * 1000.0;
        format!("function delay() return math.floor(-{mean} * math.log(1 - math.random())) end\n")
    }
}

fn authorized(token: &str) -> String {
    format!("wrk.headers['Authorization'] = 'Bearer {token}'\n")
}

fn made_up() -> String {
    format!("local made_up = {MADE_UP}\n")
}

fn place_orders(buyers: &[Person], products: i64) -> String {
    let pairs = buyers.iter().map(|buyer| format!("{{'{}','{}'}}", buyer.id, buyer.token));
    let buyers = pairs.collect::<Vec<_>>().join(",\n");
    format!(
        r#"local buyers = {{{buyers}}}
        local body = '{{"user_id":"%s","items":[{{"product_id":%d,"quantity":1}},{{"product_id":%d,"quantity":2}}]}}'
        local function make()
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
