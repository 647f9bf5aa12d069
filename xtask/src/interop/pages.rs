//! `cargo xtask interop pages`: memory sent to a page server, with CRIU and rewake in all three parts, in rounds and
//! encrypted where that is possible.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Pid;
use rewake_testkit::{Scenario, Workload, in_pid_namespace, scenarios};

use super::{
    case::{END_LIMIT, finish},
    pki,
};
use crate::peer::Peer;

/// Whose program plays a part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Tool {
    Own,
    Criu,
}
use Tool::{Criu, Own};

/// Who dumps, who takes in the memory, who restores.
struct Route {
    name: &'static str,
    dumper: Tool,
    server: Tool,
    restorer: Tool,
    /// Rounds of pre-dumps before the dump. CRIU can make none on a kernel without soft-dirty bits.
    rounds: usize,
    encrypted: bool,
}

const fn route(name: &'static str, dumper: Tool, server: Tool, restorer: Tool) -> Route {
    Route { name, dumper, server, restorer, rounds: 0, encrypted: false }
}

const ROUTES: [Route; 10] = [
    route("own to own to own", Own, Own, Own),
    route("own to criu to criu", Own, Criu, Criu),
    route("own to criu to own", Own, Criu, Own),
    route("criu to own to own", Criu, Own, Own),
    route("criu to own to criu", Criu, Own, Criu),
    Route { rounds: 2, ..route("own in rounds to own to own", Own, Own, Own) },
    Route { rounds: 2, ..route("own in rounds to criu to criu", Own, Criu, Criu) },
    Route { encrypted: true, ..route("own encrypted to own to own", Own, Own, Own) },
    Route { encrypted: true, ..route("own encrypted to criu to criu", Own, Criu, Criu) },
    Route { encrypted: true, ..route("criu encrypted to own to criu", Criu, Own, Criu) },
];

/// Scenarios that are mostly memory: private and changing, shared, and in a file without a name.
const SCENARIOS: [&str; 3] = ["churn", "shared-anonymous", "memfd"];

/// The same for memory that comes while the process runs. As long as the daemon has it registered with userfaultfd, what the
/// program maps is not joined with it, and so an mremap(2) of both fails, as churn has it: sometimes, by who is faster.
const LAZY_SCENARIOS: [&str; 3] = ["anonymous", "shared-anonymous", "memfd"];

/// CRIU dumps, and restores the process without its memory, which its daemon fetches from rewake's page server while the
/// process runs. The other way round cannot be tested everywhere: CRIU's own server needs CAP_SYS_RESOURCE for a large pipe.
const LAZY: &str = "criu lazily from own";

/// Encryption where one side shows a certificate of somebody the other does not know: nothing is sent, and the process goes on.
const TO_STRANGER: &str = "own, a stranger, to criu";
const BY_STRANGER: &str = "criu, a stranger, to own";

/// Takes every route, each in its own pid namespace.
pub(super) fn run(rewake: &Path) -> Result<()> {
    let mut failed = 0;
    println!();
    for route in ROUTES.iter().map(|route| route.name).chain([LAZY, TO_STRANGER, BY_STRANGER]) {
        for scenario in if route == LAZY { LAZY_SCENARIOS } else { SCENARIOS } {
            let dir = tempfile::tempdir()?;
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["interop", "pages-case", route, scenario]).arg(rewake).arg(dir.path());
            command.stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
            in_pid_namespace(&mut command);
            let output = command.output().context("making a pid namespace")?;
            let said = String::from_utf8_lossy(&output.stderr);
            let said: Vec<&str> = said.split_whitespace().collect();
            let word = if output.status.success() { "ok" } else { "FAILED" };
            failed += usize::from(!output.status.success());
            println!("pages  {route:30} {scenario:16} {word} {}", said.join(" "));
        }
    }
    ensure!(failed == 0, "{failed} routes of memory failed");
    Ok(())
}

/// One route, in this process, which must be in its own pid namespace. `dir` exists and is empty.
pub(super) fn case(name: &str, scenario: &str, rewake: &Path, dir: &Path) -> Result<()> {
    let known = ROUTES.into_iter().find(|route| route.name == name);
    let special = match name {
        LAZY => Some(route(LAZY, Criu, Own, Criu)),
        TO_STRANGER => Some(route(TO_STRANGER, Own, Criu, Own)),
        BY_STRANGER => Some(route(BY_STRANGER, Criu, Own, Own)),
        _ => None,
    };
    let Some(route) = known.or(special) else { bail!("no route {name}") };
    let scenario = scenarios()?.into_iter().find(|known| known.name == scenario);
    let scenario = scenario.context("no such scenario")?;
    let mut case = Case { route, scenario, rewake: rewake.to_owned(), dir: dir.to_owned(), tls: Vec::new() };
    if case.route.encrypted {
        case.tls = pki::certificates(dir, "127.0.0.1")?;
    }
    match name {
        LAZY => case.lazily(),
        TO_STRANGER | BY_STRANGER => case.stranger(),
        _ => case.run(),
    }
}

struct Case {
    route: Route,
    scenario: Scenario,
    rewake: PathBuf,
    dir: PathBuf,
    /// Options that have a side use encryption.
    tls: Vec<String>,
}

impl Case {
    fn run(&self) -> Result<()> {
        let work = self.dir.join("work");
        for made in [&work, &self.dir.join("here"), &self.dir.join("there")] {
            fs::create_dir(made)?;
        }
        let workload = self.scenario.start(&work)?;
        for round in 0..=self.route.rounds {
            self.round(round, &workload).with_context(|| format!("round {round}"))?;
        }
        workload.wait_end(END_LIMIT)?;
        let last = self.dir.join("there").join(self.route.rounds.to_string());
        let mut restore = self.tool(self.route.restorer)?;
        restore.args(["restore", "--restore-detached", "--images-dir"]).arg(last);
        finish(&mut restore, "restore")?;
        let restored = Workload::adopt(workload.pid(), &work).context("after the restore")?;
        let verdict = self.scenario.verdict(&restored).context("after the restore")?;
        ensure!(verdict == "PASS", "{verdict}");
        Ok(())
    }

    fn lazily(&self) -> Result<()> {
        let (work, images) = (self.dir.join("work"), self.dir.join("images"));
        fs::create_dir(&work)?;
        fs::create_dir(&images)?;
        let workload = self.scenario.start(&work)?;
        let mut dump = self.tool(Criu)?;
        dump.args(["dump", "--tree", &workload.pid().to_string(), "--images-dir"]).arg(&images);
        finish(&mut dump, "dump")?;
        workload.wait_end(END_LIMIT)?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port().to_string();
        let address = ["--address", "127.0.0.1", "--port", &port];
        let mut ends = Vec::new();
        for (tool, command) in [
            (Own, ["page-server", "--lazy-pages", "--daemon"]),
            (Criu, ["lazy-pages", "--page-server", "--daemon"]),
        ] {
            let pidfile = self.dir.join(format!("{tool:?}.pid"));
            let mut daemon = self.tool(tool)?;
            daemon.args(command).args(address).arg("--pidfile").arg(&pidfile);
            daemon.arg("--images-dir").arg(&images);
            finish(&mut daemon, "daemon")?;
            let pid = Pid::from_raw(fs::read_to_string(&pidfile)?.trim().parse()?);
            ends.push(Workload::adopt(pid, &self.dir)?);
        }
        let mut restore = self.tool(Criu)?;
        restore.args(["restore", "--lazy-pages", "--restore-detached", "--images-dir"]).arg(&images);
        finish(&mut restore, "restore")?;
        for daemon in ends {
            daemon.wait_end(END_LIMIT).context("a daemon goes on")?;
        }
        let restored = Workload::adopt(workload.pid(), &work).context("after the restore")?;
        let verdict = self.scenario.verdict(&restored).context("after the restore")?;
        ensure!(verdict == "PASS", "{verdict}");
        Ok(())
    }

    /// The dump trusts the server, but shows a certificate of another CA.
    fn stranger(&self) -> Result<()> {
        let work = self.dir.join("work");
        let (known, unknown) = (self.dir.join("known"), self.dir.join("unknown"));
        let (here, there) = (self.dir.join("here"), self.dir.join("there"));
        for made in [&work, &known, &unknown, &here, &there] {
            fs::create_dir(made)?;
        }
        let trusted = pki::certificates(&known, "127.0.0.1")?;
        let (trusting, _) = trusted.split_at(pki::TRUST_OPTIONS);
        let strange = pki::certificates(&unknown, "127.0.0.1")?;
        let (_, showing) = strange.split_at(pki::TRUST_OPTIONS);
        let workload = self.scenario.start(&work)?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port().to_string();
        let address = ["--address", "127.0.0.1", "--port", &port];
        let pidfile = self.dir.join("server.pid");
        let mut server = self.tool(self.route.server)?;
        server.args(["page-server", "--daemon"]).args(address).args(&trusted);
        server.arg("--pidfile").arg(&pidfile).arg("--images-dir").arg(&there);
        finish(&mut server, "page-server")?;
        let pid = Pid::from_raw(fs::read_to_string(&pidfile)?.trim().parse()?);
        let server = Workload::adopt(pid, &self.dir).context("the page server")?;
        let mut dump = self.tool(self.route.dumper)?;
        dump.args(["dump", "--tree", &workload.pid().to_string(), "--page-server"]).args(address);
        dump.args(trusting).args(showing).arg("--images-dir").arg(&here);
        ensure!(finish(&mut dump, "dump").is_err(), "the stranger was served");
        server.wait_end(END_LIMIT).context("the page server goes on")?;
        let kept = fs::read_dir(&there)?
            .any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("pagemap")));
        ensure!(!kept, "memory of a stranger was kept");
        let verdict = self.scenario.verdict(&workload).context("after the dump that failed")?;
        ensure!(verdict == "PASS", "{verdict}");
        Ok(())
    }

    fn tool(&self, tool: Tool) -> Result<Command> {
        Ok(match tool {
            Own => Command::new(&self.rewake),
            Criu => Peer::open()?.criu(),
        })
    }

    fn round(&self, round: usize, workload: &Workload) -> Result<()> {
        let (here, there) = (self.dir.join(format!("here/{round}")), self.dir.join(format!("there/{round}")));
        let parent = (round > 0).then(|| format!("../{}", round - 1));
        let parent: Vec<&str> = parent.iter().flat_map(|parent| ["--prev-images-dir", parent]).collect();
        fs::create_dir(&here)?;
        fs::create_dir(&there)?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port().to_string();
        let address = ["--address", "127.0.0.1", "--port", &port];

        let pidfile = self.dir.join(format!("server-{round}.pid"));
        let mut server = self.tool(self.route.server)?;
        server.args(["page-server", "--daemon"]).args(address).args(&parent).args(&self.tls);
        server.arg("--pidfile").arg(&pidfile).arg("--images-dir").arg(&there);
        finish(&mut server, "page-server")?;
        let pid = Pid::from_raw(fs::read_to_string(&pidfile)?.trim().parse()?);
        let server = Workload::adopt(pid, &self.dir).context("the page server")?;

        let mut dump = self.tool(self.route.dumper)?;
        dump.arg(if round == self.route.rounds { "dump" } else { "pre-dump" });
        dump.args(["--tree", &workload.pid().to_string(), "--page-server"]);
        dump.args(address).args(&parent).args(&self.tls).arg("--images-dir").arg(&here);
        finish(&mut dump, "dump")?;
        server.wait_end(END_LIMIT).context("the page server goes on")?;
        // As scp would.
        for entry in fs::read_dir(&here)? {
            let entry = entry?;
            let to = there.join(entry.file_name());
            ensure!(entry.file_name() == "parent" || !to.exists(), "both sides have {}", to.display());
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), to)?;
            }
        }
        let memory = format!("pagemap-{}.img", workload.pid());
        ensure!(there.join(&memory).exists(), "the page server has not brought {memory}");
        Ok(())
    }
}
