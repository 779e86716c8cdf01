"""`felixctl ipam`: what people ask and change of pod addresses."""
