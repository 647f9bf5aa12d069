//! A kernel test is alone with its pids.

use std::path::Path;

use rewake_testkit::{Workload, namespace};

rewake_testkit::kernel_test! {
    fn a_kernel_test_has_its_own_pids() {
        assert!(namespace::inside());
        // Pid 1 is the reaper, this is the first program.
        assert_eq!(std::process::id(), 2);
        assert_eq!(std::fs::read_link("/proc/self").unwrap(), Path::new("2"));
    }

    fn a_workload_runs_in_the_namespace() -> Result<(), rewake_testkit::TestkitError> {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("minimal", dir.path())?;
        assert!(workload.pid().as_raw() < 100);
        workload.trigger()?;
        assert_eq!(workload.wait_result(std::time::Duration::from_secs(60))?, "PASS");
        Ok(())
    }

    #[should_panic(expected = "failed in its pid namespace")]
    fn a_failure_inside_is_a_failure_outside() {
        assert!(!namespace::inside());
    }
}
