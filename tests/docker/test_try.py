import time
def test_x(make_repository):
    r = make_repository("ends")
    t=time.time()
    f = r.sweep("how=completed,raise_builtin", "hydra/sweeper=recording")
    print(time.time()-t, f.status, f.output)
    import json; print(json.dumps(f.ledger,indent=1)); print(json.dumps(f.results,indent=1))
