import subprocess, sys, time
from grids import GRID, TINY, kill
def test_a_cell(bench, cli):
    process = bench.start("train", "-m", *TINY, "method=rigl", "seed=0", "trainer.max_epochs=150", "trainer.save_steps=3")
    bench.wait_for("single.ckpt")
    watcher = subprocess.Popen([sys.executable, "-c", f"import os,time;time.sleep(1.5);os.killpg({process.pid},9)"])
    began = time.monotonic()
    answer = cli("train", "-m", *TINY, "method=rigl", "seed=0,1", "trainer.max_epochs=150", "trainer.save_steps=500")
    print(process.communicate())
    watcher.wait()
    print(answer.out); print(answer.err)
    subprocess.run(f"ls -la {bench.folder}/outputs/runs/*; cat {bench.folder}/outputs/runs/*/failed.txt", shell=True)
    assert answer.code == 0
