"""`predict`: records, texts, series and images in; labels, numbers, spans, boxes, texts and images out."""
