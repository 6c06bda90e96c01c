from r2d2.cluster.trainer import cause

CUT = """ray.exceptions.RayTaskError(UnknownError): [36mray::_RayTrainWorker__execute.get_next()[39m
tensorflow.python.framework.errors_impl.UnknownError: Graph execution error:

Detected at node HorovodAllreduce defined at (most recent call last):
  File "<string>", line 111, in horovod_allreduce

Horovod has been shut down. This was caused by an exception on one of the ranks
"""


def test_thecause_is_the_last_error_that_is_named_in_one_line():
    text = "ValueError: first\nray.exceptions.RayTaskError(InputError): x\nr2d2.errors.InputError: node1: gone"
    assert cause(text) == ("InputError", "node1: gone")
    assert cause("no error\nat all") == ("Error", "at all") and cause("") == ("Error", "no message")


def test_a_broken_ring_is_called_that():
    assert cause(CUT) == ("UnknownError", "the ring broke: another rank is gone, or was not heard of for 30 s")
