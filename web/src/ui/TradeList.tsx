import { formatQuantity, signOf } from "../decimal";
import { useDesk } from "./context";
import { PriceFigure, Quantity } from "./Figure";
import { ListingFoot } from "./ListingFoot";
import { Moment } from "./Moment";
import { SideTag } from "./SideTag";

export function TradeList() {
  const { trades } = useDesk();
  const { items } = trades.state.value;
  return (
    <>
      {items.length > 0 && (
        <div class="scroller">
          <table class="grid" data-testid="trades-table">
            <thead>
              <tr>
                <th scope="col">Trade</th>
                <th scope="col" class="number">
                  Quantity
                </th>
                <th scope="col" class="number">
                  Price
                </th>
                <th scope="col" class="number">
                  Fee
                </th>
                <th scope="col" class="number">
                  Executed
                </th>
              </tr>
            </thead>
            <tbody>
              {items.map((trade) => (
                <tr key={trade.fill_id} data-testid="trade-row" data-symbol={trade.symbol}>
                  <td>
                    <span class="symbol">{trade.symbol}</span>
                    <SideTag side={trade.side} />
                    {trade.strategy !== null && <span class="tag">{trade.strategy}</span>}
                  </td>
                  <td class="number">
                    <Quantity value={trade.quantity} />
                  </td>
                  <td class="number">
                    <PriceFigure value={trade.price} />
                  </td>
                  <td class="number">
                    {signOf(trade.fee) === 0 ? <span class="quiet">—</span> : `${formatQuantity(trade.fee)} ${trade.fee_asset ?? ""}`}
                  </td>
                  <td class="number">
                    <Moment at={trade.executed_at} />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      <ListingFoot listing={trades} empty="No trades yet." />
    </>
  );
}
