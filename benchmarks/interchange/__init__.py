"""Files of hloc and kapture, read and written, so that either side can take over at any stage."""
