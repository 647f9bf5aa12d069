//! What `rewake inspect` shows.

use rewake_images::explore::{Details, TaskState, inspect};

use crate::open;

#[test]
fn a_process_and_its_child() {
    let found = inspect(&open("pipe00-h"), Details::default()).unwrap();
    let root = &found.processes[0];
    assert_eq!((root.pid, root.comm.as_str(), root.state), (66, "pipe00", TaskState::Alive));
    assert_eq!(root.threads.keys().copied().collect::<Vec<_>>(), [66]);
    assert_eq!(root.exe.as_deref(), Some("/criu/test/zdtm/static/pipe00"));
    assert_eq!(root.cwd.as_deref(), Some("/criu/test/zdtm/static"));
    assert_eq!((root.descriptors, root.sockets, root.memory.dumped), (8, 0, 28 * 4096));
    assert!(root.memory.mapped > root.memory.dumped && root.memory.shared > 0, "{:?}", root.memory);
    assert_eq!(root.children[0].pid, 67);
    assert_eq!(root.environment, None, "not asked for");
    assert_eq!(found.statistics.unwrap().pages_written, 56);
    assert_eq!((found.dump.image_version, found.dump.has_parent), (2, false));
    assert!(found.sizes.pages > 0 && found.sizes.total > found.sizes.pages);
}

#[test]
fn memory_in_the_parent_counts_apart() {
    let found = inspect(&open("mem-touch-incr/3"), Details::default()).unwrap();
    assert!(found.dump.has_parent);
    let memory = found.processes[0].memory;
    assert!(memory.in_parent > 0 && memory.dumped > 0, "{memory:?}");
    assert!(found.processes[0].arguments.is_some(), "wherever their pages lie");
    assert_eq!(inspect(&open("env00-v1.0"), Details::default()).unwrap().dump.image_version, 1);
}
