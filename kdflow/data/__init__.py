"""Detection data: COCO and VOC folders, the drawn default set, loading, checking and converting."""
