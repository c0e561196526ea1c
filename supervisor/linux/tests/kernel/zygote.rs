//! Siblings: clone(2), CLONE_PARENT.

use nix::libc;

use crate::script::Script;

/// clone(2): with CLONE_PARENT the child's parent is the parent of the calling process. The parent
/// is signalled at the end of the child, and reaps the child like its own. The exit signal of the
/// child is that of the caller, which must be SIGCHLD (kernel/fork.c, copy_process).
#[test]
fn a_sibling_is_a_child_of_our_parent() {
    let mut script = Script::start(&format!(
        "
come, told = os.pipe()
middle = os.fork()
if middle == 0:
    sibling, _ = call({clone}, {flags}, 0, 0, 0, 0)
    if sibling == 0:
        os.write(told, str(os.getppid()).encode())
        os._exit(7)
    os._exit(0)
os.waitpid(middle, 0)
parent = int(os.read(come, 20))
pid, status = os.waitpid(-1, 0)",
        clone = libc::SYS_clone,
        flags = libc::CLONE_PARENT | libc::SIGCHLD,
    ));
    let own = script.pid().to_string();
    assert_eq!(script.ask("parent"), own);
    assert_eq!(script.ask("os.WEXITSTATUS(status), pid != middle"), "7 True");
}
