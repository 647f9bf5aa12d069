//! Memory that goes over a network, with real processes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rewake_testkit::{Workload, kernel_test};

const PATIENCE: Duration = Duration::from_secs(60);

fn rewake() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rewake"));
    command.stdin(Stdio::null());
    command
}

/// A page server that serves one peer.
struct Server {
    child: Child,
    port: String,
    said: BufReader<std::process::ChildStderr>,
}

impl Server {
    fn start(dir: &Path, more: &[&str]) -> Self {
        let mut command = rewake();
        command.args(["page-server", "--address", "127.0.0.1", "-D"]).arg(dir).args(more);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().unwrap().to_owned();
        assert!(line.starts_with("rewake: listening on 127.0.0.1:"), "{line}");
        Self { child, port, said }
    }

    /// Its end, and what it said on both streams.
    fn end(mut self) -> (ExitStatus, String) {
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.said.read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap(), text)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn memory_to(port: &str, what: &str, workload: &Workload, images: &Path, more: &[&str]) -> Output {
    let mut command = rewake();
    command.args([what, "-t", &workload.pid().to_string(), "-D"]).arg(images);
    command.args(["--page-server", "--address", "127.0.0.1", "--port", port]).args(more).output().unwrap()
}

fn done(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Puts the files of one directory into another.
fn bring(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn verdict(workload: &Workload) -> String {
    workload.trigger().unwrap();
    workload.wait_result(PATIENCE).unwrap_or_else(|error| format!("FAIL {error}"))
}

fn restored(workload: &Workload, images: &Path) -> Workload {
    workload.wait_end(PATIENCE).unwrap();
    done(&rewake().args(["restore", "-d", "-D"]).arg(images).output().unwrap());
    Workload::adopt(workload.pid(), workload.dir()).unwrap()
}

kernel_test! {
    fn a_dump_whose_memory_went_over_the_network_restores() {
        for scenario in ["churn", "memfd", "minimal"] {
            let dir = tempfile::tempdir().unwrap();
            let workload = Workload::spawn(scenario, dir.path()).unwrap();
            let (here, there) = (dir.path().join("here"), dir.path().join("there"));
            let server = Server::start(&there, &["--json"]);
            let output = memory_to(&server.port, "dump", &workload, &here, &[]);
            done(&output);
            let line = String::from_utf8(output.stdout).unwrap();
            assert!(line.contains(" pages; frozen"), "not compressed: {line}");
            let (status, said) = server.end();
            assert!(status.success() && said.contains("\"parent_pages\": 0"), "{said}");
            assert!(!fs::read_dir(&here).unwrap().any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("pages")));
            bring(&here, &there);
            assert_eq!(verdict(&restored(&workload, &there)), "PASS", "{scenario}");
        }
    }

    fn pre_dumps_go_over_the_network_too() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("churn", dir.path()).unwrap();
        let (here, there) = (dir.path().join("here"), dir.path().join("there"));
        for made in [&here, &there] {
            fs::create_dir(made).unwrap();
        }
        for (n, what) in [("1", "pre-dump"), ("2", "pre-dump"), ("3", "dump")] {
            let previous = match n { "1" => None, "2" => Some("../1"), _ => Some("../2") };
            let parent: Vec<&str> = previous.iter().flat_map(|previous| ["--prev-images-dir", previous]).collect();
            let server = Server::start(&there.join(n), &[parent.as_slice(), &["--json"]].concat());
            done(&memory_to(&server.port, what, &workload, &here.join(n), &parent));
            let (status, said) = server.end();
            assert!(status.success(), "{said}");
            // Pages that did not change are not sent again, although they are not here.
            assert_eq!(said.contains("\"parent_pages\": 0,"), n == "1", "{said}");
            bring(&here.join(n), &there.join(n));
        }
        assert_eq!(verdict(&restored(&workload, &there.join("3"))), "PASS");
    }

    fn a_server_that_dies_lets_the_process_go_on() {
        for read in [0, 24, 5000] {
            for what in ["dump", "pre-dump"] {
                let dir = tempfile::tempdir().unwrap();
                let workload = Workload::spawn("churn", dir.path()).unwrap();
                let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
                let port = listener.local_addr().unwrap().port().to_string();
                let server = std::thread::spawn(move || {
                    let (mut peer, _) = listener.accept().unwrap();
                    // The greeting.
                    peer.read_exact(&mut [0; 24]).unwrap();
                    peer.write_all(&[0; 4]).unwrap();
                    let mut request = vec![0; read.min(24)];
                    peer.read_exact(&mut request).unwrap();
                    if read > 24 {
                        peer.write_all(&[0]).unwrap();
                        peer.read_exact(&mut vec![0; read - 24]).unwrap();
                    }
                });
                let images = dir.path().join("images");
                let output = memory_to(&port, what, &workload, &images, &[]);
                server.join().unwrap();
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(output.status.code(), Some(2), "{said}");
                assert!(said.contains("the other side"), "{said}");
                assert!(!images.exists(), "something is left");
                assert_eq!(verdict(&workload), "PASS");
            }
        }
    }

    fn a_server_that_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("minimal", dir.path()).unwrap();
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port().to_string();
        let output = memory_to(&free, "dump", &workload, &dir.path().join("images"), &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.starts_with(&format!("rewake: cannot connect to 127.0.0.1:{free}")), "{said}");
        assert_eq!(verdict(&workload), "PASS");
    }

    fn a_client_that_dies_leaves_nothing_at_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        let server = Server::start(&there, &[]);
        let mut client = std::net::TcpStream::connect(format!("127.0.0.1:{}", server.port)).unwrap();
        // The pages of pid 3 begin.
        client.write_all(&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 0, 0, 0, 0]).unwrap();
        client.read_exact(&mut [0]).unwrap();
        drop(client);
        let (status, said) = server.end();
        assert_eq!(status.code(), Some(2), "{said}");
        assert!(said.starts_with("rewake: nothing was kept: the other side closed the connection"), "{said}");
        assert_eq!(fs::read_dir(&there).unwrap().count(), 0, "something is left");
    }

    fn in_the_background_it_serves_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("minimal", dir.path()).unwrap();
        let (here, there, pidfile) = (dir.path().join("here"), dir.path().join("there"), dir.path().join("pid"));
        let mut command = rewake();
        command.args(["page-server", "-d", "--address", "127.0.0.1", "--pidfile"]).arg(&pidfile);
        let output = command.arg("-D").arg(&there).output().unwrap();
        done(&output);
        let said = String::from_utf8(output.stderr).unwrap();
        let port = said.trim().rsplit(':').next().unwrap();
        let pid: i32 = fs::read_to_string(&pidfile).unwrap().parse().unwrap();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        done(&memory_to(port, "dump", &workload, &here, &[]));
        bring(&here, &there);
        assert_eq!(verdict(&restored(&workload, &there)), "PASS");
    }

    fn memory_that_was_kept_back_is_fetched_before_the_process_runs() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("churn", dir.path()).unwrap();
        let (whole, lacking) = (dir.path().join("whole"), dir.path().join("lacking"));
        done(&rewake().args(["dump", "-t", &workload.pid().to_string(), "-D"]).arg(&whole).output().unwrap());
        workload.wait_end(PATIENCE).unwrap();
        let kept_back = keep_back(&workload, &whole, &lacking);
        let restore = |more: &[&str]| rewake().args(["restore", "-d", "-D"]).arg(&lacking).args(more).output().unwrap();

        let said = String::from_utf8(restore(&[]).stderr).unwrap();
        assert!(said.contains("the dumper kept it"), "{said}");
        // From one that has it not either.
        let server = Server::start(&lacking, &["--lazy-pages"]);
        let output = restore(&["--page-server", "--port", &server.port]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("the page server has no pages of process"), "{said}");
        assert!(!Path::new(&format!("/proc/{}", workload.pid())).exists(), "a process was left");
        drop(server);

        let server = Server::start(&whole, &["--lazy-pages"]);
        done(&restore(&["--page-server", "--port", &server.port]));
        let (status, said) = server.end();
        assert!(status.success() && said == format!("sent {kept_back} pages\n"), "{said}");
        assert_eq!(fs::read_dir(&lacking).unwrap().count(), fs::read_dir(&whole).unwrap().count(), "something is left");
        assert_eq!(verdict(&Workload::adopt(workload.pid(), dir.path()).unwrap()), "PASS");
    }
}

/// Makes of the checkpoint `whole` one that lacks every second part of the memory, as a dump for a lazy migration leaves it.
/// Gives how many pages that are.
fn keep_back(workload: &Workload, whole: &Path, lacking: &Path) -> u64 {
    use rewake_images::proto::{PagemapEntry, PagemapHead};
    use rewake_images::{ImageReader, ImageWriter, Kind, Layout, PageStore, pages_of, pe};
    fs::create_dir(lacking).unwrap();
    bring(whole, lacking);
    let pid = u64::from(workload.pid().as_raw().unsigned_abs());
    let name = Kind::Pagemap.file_name(Some(pid));
    fs::remove_file(lacking.join(&name)).unwrap();
    let store = PageStore::open(whole, Kind::Pagemap, pid).unwrap();
    let mut reader = ImageReader::open(Kind::Pagemap, whole.join(&name)).unwrap();
    let (head, _) = reader.next_message::<PagemapHead>().unwrap().unwrap();
    let mut writer = ImageWriter::create(Kind::Pagemap, Layout::V11, lacking.join(&name)).unwrap();
    writer.push(&head).unwrap();
    let (mut pages, mut kept_back) = (Vec::new(), 0);
    for turn in 0.. {
        let Some((mut entry, _)) = reader.next_message::<PagemapEntry>().unwrap() else { break };
        if turn % 2 == 0 {
            entry.flags = Some(pe::LAZY);
            kept_back += pages_of(&entry);
        } else {
            let mut bytes = vec![0; usize::try_from(pages_of(&entry)).unwrap() * 4096];
            store.read_at(entry.vaddr, &mut bytes).unwrap();
            pages.extend(bytes);
        }
        writer.push(&entry).unwrap();
    }
    writer.finish().unwrap();
    fs::write(lacking.join(Kind::Pages.file_name(Some(head.pages_id.into()))), pages).unwrap();
    kept_back
}
